#!/usr/bin/env bash
# Regenerate revision 0001 from the models. Only before the first release; later changes are new revisions.
set -eu
cd "$(dirname "$0")/.."
rm -f sparring/memory/migrations/versions/0001_*.py
python - <<'PY'
from alembic import command
from alembic.config import Config
from sparring.memory.database import MIGRATIONS, connect
config = Config()
config.set_main_option("script_location", str(MIGRATIONS))
with connect("sqlite://").connect().execution_options(sparring_write=True) as connection, connection.begin():
    config.attributes["connection"] = connection
    command.revision(config, message="journal", autogenerate=True, rev_id="0001")
PY
file=sparring/memory/migrations/versions/0001_journal.py
sed -i -E 's/sparring\.memory\.types\.Json\(\)/sa.Text()/; s/sparring\.memory\.types\.Packed\([^)]*\)/sa.LargeBinary()/; /### /d; s/^"""journal"""/"""The journal as first released: runs, episodes, turns, messages, and what is made of them."""/; /^def downgrade/,$d' "$file"
cat >> "$file" <<'PY'
def downgrade() -> None:
    raise NotImplementedError("the first revision has nothing below it")
PY
ruff format -q "$file"; ruff check -q --fix "$file"
