"""The papers' tables and claims, measured again and set beside what is printed."""
