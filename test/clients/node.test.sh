#!/usr/bin/env bash
# Builds clients/node in a temporary directory and runs its tests against the server that PGHOST leads to. The tests
# restart that server. CLIENTS_SECONDS=20 is the length of C21.
# needs: node npm pgbouncer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../clients/node"

PRISMA=7.10.0

DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
cp -R README.md package.json tsconfig.json src test "$DIR"
cd "$DIR"
export NO_UPDATE_NOTIFIER=1 CHECKPOINT_DISABLE=1 PRISMA_HIDE_UPDATE_MESSAGE=1

npm install --no-audit --no-fund --no-package-lock
npm run build
npm run build:test

# Prisma wants to fetch a program for migrations, which nobody needs here: any program will do.
if ! log=$(npm install --no-audit --no-fund --no-package-lock --no-save --ignore-scripts \
	"prisma@$PRISMA" "@prisma/client@$PRISMA" "@prisma/adapter-pg@$PRISMA" 2>&1); then
	export PRISMA_MISSING="Prisma cannot be installed"
elif ! log=$(PRISMA_SCHEMA_ENGINE_BINARY=$(type -P true) node_modules/.bin/prisma generate \
	--schema test/prisma/schema.prisma 2>&1); then
	export PRISMA_MISSING="Prisma cannot generate its client"
fi
[[ -z ${PRISMA_MISSING:-} ]] || echo "$log"

# what npm publishes, in a project that has nothing else than pg
npm pack --silent
mkdir project
npm install --no-audit --no-fund --no-package-lock --prefix project "$PWD"/jobqueue-pg-*.tgz \
	"pg@$(node -p 'require("./package.json").devDependencies.pg')"
(cd project && npx --no-install jobqueue --help)
(cd project && node --input-type=module -e '
	await Promise.all(["", "/testing", "/knex", "/prisma"].map((path) => import(`jobqueue-pg${path}`)))')

node --test --test-concurrency=1 --test-reporter=tap build/*.test.js | tee tap
sed -n 's/^ok [0-9]* - \(.*\) # SKIP \(.*\)/skip: \1: \2/p' tap
echo "clients/node does what clients/conformance.md says ($(grep -c '^ok .*' tap) tests, node $(node --version))"
