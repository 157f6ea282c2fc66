#!/usr/bin/env bash
# The Python package in clients/python: its types, and its tests against the server that PGHOST leads to, which they
# restart. CLIENTS_SECONDS=120 is how long C21 lasts; 20 otherwise. Arguments go to pytest.
# needs: venv pgbouncer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../clients/python"

VENV=$(mktemp -d)
trap 'rm -rf "$VENV"' EXIT

# the interpreter that has venv need not be the first in PATH
for python in python3 /usr/bin/python3; do
	! "$python" -c 'import ensurepip' 2>/dev/null || break
done
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
"$python" -m venv "$VENV"
"$VENV/bin/pip" install -q 'psycopg[binary]==3.2.13' 'pytest==8.4.2' 'mypy==1.19.1' 'sqlalchemy[asyncio]==2.0.58' \
	'django==5.2.19'
# the package as its users get it: built, and without a trace of the source. The build writes beside what it builds.
cp -R . "$VENV/source"
"$VENV/bin/pip" install -q "$VENV/source"

"$VENV/bin/python" -m pytest "$@"
echo "the Python package passes its tests ($("$VENV/bin/python" --version))"
