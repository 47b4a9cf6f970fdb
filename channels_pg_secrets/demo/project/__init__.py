"""The Django project the demo runs: an ordinary Channels chat, to be read as an example."""
