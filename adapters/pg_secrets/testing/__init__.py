"""What tests of adapters and of whatever uses them need; imports nothing by itself.

``contract`` has the suite that every adapter passes, ``adapter`` one that follows a script,
``clock`` a clock that stands still, ``canary`` a hunt for passwords, ``postgres``, ``openbao``,
``aws``, ``gcp`` and ``redis`` real servers, ``fixtures`` all of these for pytest.
"""
