"""``python -m paper_tables.audit.claims``."""

from paper_tables.cli import main_for

if __name__ == "__main__":
    raise SystemExit(main_for("claims"))
