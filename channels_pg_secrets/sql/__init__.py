"""The layer's tables and functions, as SQL files that the migrations apply."""
