"""Every cell of the tables in docs/reference/adapters.md has a test, and this says which."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "adapters.md"
UNIT = "unit/pg_secrets/adapters/test_"
REAL = "integration/adapters/test_"

#: Row, adapter, and where the test is: a file's name after one of the two above, and tests in it.
CAN = {
    ("identities", "vault"): [
        (REAL + "vault_login", "test_approle"),
        (REAL + "vault_login", "test_wrong_token"),
        (REAL + "vault_logins", "test_kubernetes"),
        (REAL + "vault_logins", "test_jwt"),
        (REAL + "vault_logins", "test_userpass"),
        (REAL + "vault_logins", "test_ldap"),
        (REAL + "vault_logins", "test_cert"),
        (UNIT + "vault_aws", "test_what_is_sent"),
        (UNIT + "vault_gcp", "test_a_machine"),
        (UNIT + "vault_gcp", "test_a_key_signs"),
    ],
    ("identities", "aws"): [
        (REAL + "aws", "test_forms_of_a_secret"),
        (REAL + "aws", "test_an_assumed_role"),
    ],
    ("identities", "gcp"): [(REAL + "gcp", "test_no_identity")],
    ("identities", "rds_iam"): [
        (REAL + "rds_iam", "test_the_token_is_signed_for_the_user_and_the_host"),
        (REAL + "aws", "test_an_assumed_role"),
    ],
    ("identities", "oauth"): [(REAL + "oauth", "test_what_is_asked")],
    ("identities", "chain"): [(UNIT + "chain", "test_the_first_that_has_something")],
    ("an end of its own", "vault"): [
        (REAL + "vault_database", "test_dynamic_login"),
        (REAL + "vault_login", "test_batch_token"),
        (REAL + "vault_login", "test_lease_of_a_batch_token_ends_with_it"),
    ],
    ("an end of its own", "rds_iam"): [(REAL + "rds_iam", "test_it_is_replaced_before_it_ends")],
    ("an end of its own", "oauth"): [(REAL + "oauth", "test_what_is_asked")],
    ("an end of its own", "command"): [(UNIT + "command", "test_when_it_ends")],
    ("an end of its own", "chain"): [
        (UNIT + "chain", "test_everything_else_goes_to_whom_it_found")
    ],
    ("renewal", "vault"): [
        (REAL + "vault_database", "test_renewal_reaches_the_database"),
        (REAL + "vault_login", "test_periodic_token_is_renewed"),
    ],
    ("renewal", "chain"): [(UNIT + "chain", "test_everything_else_goes_to_whom_it_found")],
    ("given back", "vault"): [
        (REAL + "vault_login", "test_close_revokes_the_token_and_its_logins"),
        (REAL + "vault_database", "test_revoked_login_is_refused"),
    ],
    ("given back", "chain"): [(UNIT + "chain", "test_everything_else_goes_to_whom_it_found")],
    ("one for all processes of a host (`SHARED`)", "vault"): [
        (REAL + "vault_shared", "test_one_renews_for_all"),
        (REAL + "vault_shared", "test_the_last_one_out_gives_back"),
    ],
    ("one for all processes of a host (`SHARED`)", "chain"): [
        ("unit/pg_secrets/test_shared_lease", "test_chain_tells_where_a_lease_is_from")
    ],
    ("may arrive wrapped", "vault"): [
        (REAL + "vault_logins", "test_a_wrapped_token"),
        (REAL + "vault_logins", "test_a_wrapped_secret_id"),
        (REAL + "vault_kv", "test_wrapped_login"),
    ],
    ("sees a change", "env"): [(UNIT + "env", "test_change_while_running")],
    ("sees a change", "files"): [(UNIT + "files", "test_swap_is_noticed")],
    ("sees a change", "vault"): [
        (UNIT + "vault_tokens", "test_token_file_is_read_again_when_it_changes")
    ],
    ("sees a change", "chain"): [(UNIT + "chain", "test_everything_else_goes_to_whom_it_found")],
    ("announced rotation", "vault"): [
        (REAL + "vault_database", "test_static_login_says_when_to_ask_again")
    ],
    ("announced rotation", "aws"): [(REAL + "aws", "test_the_announced_rotation")],
    ("announced rotation", "chain"): [(UNIT + "chain", "test_the_first_that_has_something")],
    ("pinned version", "vault"): [(REAL + "vault_kv", "test_latest_and_pinned_version")],
    ("pinned version", "aws"): [(REAL + "aws", "test_pinned_versions_and_stages")],
    ("pinned version", "gcp"): [(REAL + "gcp", "test_versions")],
    ("checksum", "gcp"): [(REAL + "gcp", "test_a_damaged_value"), (REAL + "gcp", "test_rest")],
    ("tries another value after a refusal", "aws"): [
        (REAL + "aws", "test_single_user_rotation"),
        (REAL + "aws", "test_when_all_stages_were_refused_it_begins_again"),
    ],
    ("tries another value after a refusal", "chain"): [
        (UNIT + "chain", "test_everything_else_goes_to_whom_it_found")
    ],
    ("other keys (`FIELDS`)", "env"): [(UNIT + "env", "test_json_fields_take_nothing_else")],
    ("other keys (`FIELDS`)", "files"): [(UNIT + "files", "test_further_fields")],
    ("other keys (`FIELDS`)", "vault"): [
        (REAL + "vault_kv", "test_field_mapping"),
        (REAL + "vault_kv", "test_wrapped_login"),
    ],
    ("other keys (`FIELDS`)", "aws"): [(REAL + "aws", "test_forms_of_a_secret")],
    ("other keys (`FIELDS`)", "gcp"): [(REAL + "gcp", "test_forms_of_a_secret")],
    ("other keys (`FIELDS`)", "command"): [(UNIT + "command", "test_other_keys")],
}

FAILS = {
    ("nobody there", "vault"): [
        (UNIT + "vault_answers", "test_refused_connection"),
        (UNIT + "vault_gcp", "test_no_machine"),
    ],
    ("nobody there", "aws"): [(REAL + "aws", "TestUnreachable")],
    ("nobody there", "gcp"): [
        (REAL + "gcp", "TestUnreachable"),
        (REAL + "gcp", "test_nobody_there_over_rest"),
    ],
    ("nobody there", "oauth"): [(REAL + "oauth", "TestUnreachable")],
    ("nobody there", "command"): [(UNIT + "command", "test_programs_that_cannot_run")],
    ("no answer in time", "vault"): [(REAL + "vault_faults", "test_frozen")],
    ("no answer in time", "aws"): [(REAL + "aws", "test_frozen")],
    ("no answer in time", "gcp"): [(REAL + "gcp", "test_frozen")],
    ("no answer in time", "oauth"): [(REAL + "oauth", "test_frozen")],
    ("no answer in time", "command"): [(UNIT + "command", "test_a_program_that_takes_too_long")],
    ("it has too much to do, or fails", "vault"): [
        (REAL + "vault_faults", "test_rate_limit"),
        (REAL + "vault_faults", "test_sealed"),
    ],
    ("it has too much to do, or fails", "aws"): [(REAL + "aws", "test_refusals")],
    ("it has too much to do, or fails", "gcp"): [(REAL + "gcp", "test_refusals")],
    ("it has too much to do, or fails", "oauth"): [(REAL + "oauth", "test_refusals")],
    ("it has too much to do, or fails", "command"): [
        (UNIT + "command", "test_a_program_that_fails")
    ],
    ("something else answers", "vault"): [
        (UNIT + "vault_tokens", "test_answer_of_a_load_balancer_is_an_outage")
    ],
    ("something else answers", "aws"): [(REAL + "aws", "test_answers_that_are_none")],
    ("something else answers", "gcp"): [(REAL + "gcp", "test_refusals_over_rest")],
    ("something else answers", "oauth"): [(REAL + "oauth", "test_refusals")],
    ("no identity", "vault"): [
        (REAL + "vault_login", "test_wrong_secret_id"),
        (UNIT + "vault_aws", "test_no_identity"),
        (UNIT + "vault_gcp", "test_key_that_google_does_not_take"),
    ],
    ("no identity", "aws"): [(REAL + "aws", "test_no_identity")],
    ("no identity", "gcp"): [(REAL + "gcp", "test_no_identity")],
    ("no identity", "rds_iam"): [(REAL + "rds_iam", "test_no_identity")],
    ("it refuses", "files"): [(UNIT + "files", "test_what_the_system_says")],
    ("it refuses", "vault"): [(REAL + "vault_database", "test_policy_that_denies")],
    ("it refuses", "aws"): [(REAL + "aws", "test_refusals")],
    ("it refuses", "gcp"): [(REAL + "gcp", "test_refusals")],
    ("it refuses", "oauth"): [(REAL + "oauth", "test_refusals")],
    ("it refuses", "command"): [(UNIT + "command", "test_programs_that_cannot_run")],
    ("there is no such secret", "env"): [(UNIT + "env", "test_what_can_be_wrong")],
    ("there is no such secret", "files"): [(UNIT + "files", "test_missing")],
    ("there is no such secret", "vault"): [
        (REAL + "vault_kv", "test_nothing_there"),
        (REAL + "vault_kv", "test_deleted_and_destroyed"),
    ],
    ("there is no such secret", "aws"): [
        (REAL + "aws", "test_refusals"),
        (REAL + "aws", "test_a_secret_that_is_to_be_deleted"),
    ],
    ("there is no such secret", "gcp"): [
        (REAL + "gcp", "test_refusals"),
        (REAL + "gcp", "test_a_version_that_is_switched_off"),
    ],
    ("the secret is no login", "env"): [(UNIT + "env", "test_what_can_be_wrong")],
    ("the secret is no login", "files"): [(UNIT + "files", "test_bad_content")],
    ("the secret is no login", "vault"): [(UNIT + "vault_answers", "test_malformed_dynamic_login")],
    ("the secret is no login", "aws"): [(REAL + "aws", "test_malformed_secrets")],
    ("the secret is no login", "gcp"): [(REAL + "gcp", "test_malformed_secrets")],
    ("the secret is no login", "oauth"): [(REAL + "oauth", "test_discovery")],
    ("the secret is no login", "command"): [(UNIT + "command", "test_what_is_no_login")],
    ("the value was damaged", "gcp"): [(REAL + "gcp", "test_a_damaged_value")],
}


def table(heading: str) -> dict[tuple[str, str], str]:
    """Return the cells of the table under a heading that are not empty, by row and column."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    columns = [name.strip("`") for name in rows[0]]
    return {
        (row[0], column): cell
        for row in rows[1:]
        for column, cell in zip(columns[1:], row[1:], strict=True)
        if cell != "–"
    }


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the tests and test classes of a file."""
    text = (REPOSITORY / "tests" / f"{file}.py").read_text()
    return frozenset(re.findall(r"^(?:async )?(?:def|class) (\w+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "proofs"),
    [("What they can do", CAN), ("What goes wrong, and what is said", FAILS)],
    ids=["capabilities", "faults"],
)
def test_every_cell_has_its_tests(
    heading: str, proofs: dict[tuple[str, str], list[tuple[str, str]]]
) -> None:
    """No cell without a test, no test without its cell, and each of the tests is there."""
    assert table(heading).keys() == proofs.keys()
    missing = [
        f"{file}::{name}"
        for tests in proofs.values()
        for file, name in tests
        if name not in names_in(file)
    ]
    assert not missing
