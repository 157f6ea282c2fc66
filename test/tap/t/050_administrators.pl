# What administrators do to any table and any database: it works, or is refused when it is done, with the reason.
#
# - further columns, indexes, triggers, rules, policies, names, storage, on our tables (B3); publications of all tables
# - ids that do not come in order: sequences that are set back, ids that a statement brings (E2)
# - session_replication_role = replica (E3)
# - dumps by who may not read everything, and of the schema alone (E14)
# - default privileges, DROP EXTENSION (E15)
#
# There is no fallback poll: what is not announced is not found.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('main', autovacuum => 'off', init => { allows_streaming => 'logical' },
	'jobqueue.poll_interval' => '1h',
	'jobqueue.max_workers' => 1, 'jobqueue.worker_idle_timeout' => '1h');
create_queue($node, 'app');
create_ledger($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE TABLE seen (task bigint, status text, attempts int, claimed_by text);
	CREATE FUNCTION row_handler(t jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO public.seen VALUES (t.id, t.status, t.attempts, t.claimed_by); END $$;
	SELECT jobqueue.register_handler('row', 'row_handler(jobqueue.tasks)');
SQL

sub sql {
	my ($statements) = @_;
	return $node->safe_psql('app', $statements);
}

sub fails {
	my ($statement, $state, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $out, $error) = $node->psql('app', "\\set VERBOSITY verbose\n$statement");
	like($error, qr/ERROR:  $state:/, $name);
	return $error;
}

# Both kinds of handlers, groups, and workers outside.
sub all_works {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ids = sql(<<'SQL');
		SELECT string_agg(id::text, ',') FROM (SELECT jobqueue.enqueue(type, group_key => g) AS id
			FROM unnest('{note,row}'::text[]) type, unnest('{NULL,g}'::text[]) g) e
SQL
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($ids) AND status = 'completed'", 4,
		"$name: tasks run");
	my ($one, $two) = split /\|/,
		sql("SELECT jobqueue.enqueue('outside'), jobqueue.enqueue('outside', group_key => 'g')");
	is(sql("SELECT string_agg(concat_ws(' ', id, type, status, attempts, lease_expires_at > now(), claimed_by), ', ' "
		. "ORDER BY id)
		FROM jobqueue.claim(max_tasks => 10, types => '{outside}', claimed_by => 'me')"),
		"$one outside processing 1 t me, $two outside processing 1 t me", "$name: claims by types");
	is(sql("SELECT jobqueue.fail($two, 1, 'again', retry_in => '0 s'), jobqueue.complete($one, 1)"), 'pending|t',
		"$name: ends");
	is(sql("SELECT string_agg(id || ' ' || attempts, ', ') FROM jobqueue.claim()"), "$two 2",
		"$name: claims of what has no handler");
	is(sql("SELECT jobqueue.complete($two, 2)"), 't', "$name: ends them");
}

# --------------------------------------------------------------------------------------------------------------------
# B3: publications

is(sql(<<'SQL'), '', 'B3: every table can say which row it means');
	SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind = 'r'
		AND c.relreplident <> 'f'
		AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND c.relreplident = 'd')
SQL
sql('CREATE PUBLICATION everything FOR ALL TABLES; CREATE ROLE team');
for my $statement ("SELECT jobqueue.grant_access('team', 'consumer', 'q'), jobqueue.grant_access('team', 'manager')",
	"SELECT jobqueue.revoke_access('team', 'consumer'), jobqueue.revoke_access('team', 'manager')",
	"SELECT jobqueue.limit_role('team', 1), jobqueue.limit_role('team')",
		"SELECT jobqueue.pause_queue('q'), jobqueue.resume_queue('q')",
	"SELECT jobqueue.schedule('s', '1 day', 'note'), jobqueue.pause_schedule('s'), jobqueue.unschedule('s')",
	"UPDATE jobqueue.access SET granted_at = now(); DELETE FROM jobqueue.access",
	"BEGIN; INSERT INTO jobqueue.history_ring VALUES (2, now()); DELETE FROM jobqueue.history_ring; ROLLBACK",
	"BEGIN; UPDATE jobqueue.incarnation SET database = 1; SELECT jobqueue.adopt(); COMMIT",
	"SELECT jobqueue.enqueue('note', unique_key => 'k', after => ARRAY[jobqueue.enqueue('note')])",
	"SELECT * FROM jobqueue.enqueue_unique('note', unique_key => 'p', unique_for => '1 s')",
	"SELECT jobqueue.delete_tasks(type => 'note')") {
	my ($status, $out, $error) = $node->psql('app', $statement);
	is($error, '', "B3: published: $statement");
}
all_works('B3: published');

# --------------------------------------------------------------------------------------------------------------------
# B3: tables

my $outsider = 'CREATE TABLE mine';
for my $refused ('ALTER TABLE jobqueue.tasks ADD COLUMN extra text',
	'ALTER TABLE jobqueue.tasks ADD extra int NOT NULL DEFAULT 1',
	'ALTER TABLE jobqueue.tasks ADD extra int GENERATED ALWAYS AS (priority * 2) STORED',
		'ALTER TABLE jobqueue.handlers ADD extra text',
	'ALTER TABLE jobqueue.tasks DROP COLUMN metadata', 'ALTER TABLE jobqueue.tasks RENAME COLUMN metadata TO tags',
	'ALTER TABLE jobqueue.tasks RENAME TO jobs', 'ALTER TABLE jobqueue.tasks_live RENAME TO live',
		'ALTER TABLE jobqueue.queues SET SCHEMA public',
	'ALTER TABLE jobqueue.tasks ALTER priority TYPE int', 'ALTER TABLE jobqueue.tasks ALTER payload DROP NOT NULL',
	'ALTER TABLE jobqueue.tasks ALTER payload DROP DEFAULT',
		'ALTER TABLE jobqueue.tasks DETACH PARTITION jobqueue.tasks_history_8',
	'ALTER TABLE jobqueue.tasks_live SET UNLOGGED', 'ALTER TABLE jobqueue.tasks_live REPLICA IDENTITY NOTHING',
	'ALTER TABLE jobqueue.tasks_live FORCE ROW LEVEL SECURITY', 'ALTER TABLE jobqueue.tasks DISABLE ROW LEVEL SECURITY',
	'ALTER TABLE jobqueue.tasks DROP CONSTRAINT tasks_status_known',
		'ALTER TABLE jobqueue.tasks DROP CONSTRAINT tasks_bounds',
			'ALTER TABLE jobqueue.tasks_live DROP CONSTRAINT tasks_live_pkey',
	'ALTER TABLE jobqueue.tasks RENAME CONSTRAINT tasks_status_known TO other',
	'ALTER TABLE jobqueue.tasks DISABLE TRIGGER tasks_inserted',
		'ALTER TABLE jobqueue.queues ENABLE REPLICA TRIGGER queues_changed',
	'DROP TRIGGER task_updated ON jobqueue.tasks_live',
		'ALTER TRIGGER task_updated ON jobqueue.tasks_live RENAME TO other',
	'CREATE RULE r AS ON INSERT TO jobqueue.tasks DO INSTEAD NOTHING',
		'CREATE RULE r AS ON DELETE TO jobqueue.tasks_live DO ALSO NOTHING',
	'CREATE POLICY p ON jobqueue.tasks USING (true)', 'ALTER SCHEMA jobqueue RENAME TO queue',
	'ALTER FUNCTION jobqueue.version() RENAME TO v', 'ALTER FUNCTION jobqueue.version() SET SCHEMA public',
	'ALTER INDEX jobqueue.tasks_live_next RENAME TO other', 'ALTER SEQUENCE jobqueue.tasks_id_seq RENAME TO other',
	"$outsider (task bigint REFERENCES jobqueue.tasks_live)",
		"$outsider (task bigint, FOREIGN KEY (task) REFERENCES jobqueue.tasks_live (id))",
	"$outsider () INHERITS (jobqueue.queues)", "$outsider PARTITION OF jobqueue.tasks FOR VALUES IN (9)",
	'CREATE TRIGGER t BEFORE DELETE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION '
		. 'suppress_redundant_updates_trigger()',
	'CREATE TRIGGER t BEFORE UPDATE ON jobqueue.tasks FOR EACH ROW EXECUTE FUNCTION '
		. 'suppress_redundant_updates_trigger()') {
	like(fails($refused, '0A000', "B3: refused: $refused"), qr/DETAIL:/, '... with a reason');
}
my @indexes = split /\n/, sql(<<'SQL');
	SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind = 'i'
		AND NOT EXISTS (SELECT 1 FROM pg_constraint o WHERE o.conindid = c.oid)
SQL
cmp_ok(scalar(@indexes), '>=', 9, 'indexes');
fails("DROP INDEX jobqueue.$_", '0A000', "B3: refused: DROP INDEX $_") for @indexes;
my @triggers = map { [ split /\|/ ] } split /\n/, sql(<<'SQL');
	SELECT t.tgname, t.tgrelid::regclass FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
	WHERE c.relnamespace = 'jobqueue'::regnamespace AND NOT t.tgisinternal
SQL
cmp_ok(scalar(@triggers), '>=', 8, 'triggers');
fails("DROP TRIGGER $_->[0] ON $_->[1]", '0A000', "B3: refused: DROP TRIGGER $_->[0]") for @triggers;
all_works('B3: refused');

sql('CREATE TABLE log (op text, id bigint); CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO public.log VALUES (TG_OP, coalesce(NEW.id, OLD.id)); RETURN NEW; END $$');
for my $works ('ALTER TABLE jobqueue.tasks ADD CONSTRAINT small CHECK (octet_length(payload::text) < 1000)',
	'ALTER TABLE jobqueue.tasks_live REPLICA IDENTITY FULL',
	'CREATE TRIGGER log_it AFTER INSERT OR UPDATE OR DELETE ON jobqueue.tasks FOR EACH ROW EXECUTE FUNCTION log_it()',
	'CREATE TRIGGER first BEFORE INSERT ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION log_it()',
	'CREATE TRIGGER each_statement AFTER INSERT ON jobqueue.tasks_live REFERENCING NEW TABLE AS n FOR EACH STATEMENT '
		. 'EXECUTE FUNCTION log_it()',
	'CREATE INDEX mine_idx ON jobqueue.tasks_live ((payload->>\'a\'))',
		'CREATE INDEX other ON jobqueue.tasks_live (queue, id)',
	'CREATE STATISTICS s ON queue, type FROM jobqueue.tasks_live',
		'ALTER TABLE jobqueue.tasks_live ALTER queue SET STATISTICS 1000',
	'ALTER TABLE jobqueue.tasks_live SET (fillfactor = 70, autovacuum_enabled = off)',
		'ALTER TABLE jobqueue.tasks_live ALTER payload SET STORAGE MAIN',
	"SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''",
	'ALTER TABLE jobqueue.tasks_live SET TABLESPACE elsewhere',
		'ALTER INDEX jobqueue.tasks_live_next SET TABLESPACE elsewhere',
	'CLUSTER jobqueue.tasks_live USING tasks_live_pkey', 'VACUUM FULL jobqueue.tasks_live',
		'REINDEX TABLE jobqueue.tasks_live', 'ANALYZE jobqueue.tasks',
	'COMMENT ON TABLE jobqueue.tasks IS \'ours\'',
	'CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES '
		. '(TG_TAG, 0); END $$',
	'CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl()',
		"SELECT jobqueue.grant_access('team', 'producer')") {
	my ($status, $out, $error) = $node->psql('app', $works);
	is($error, '', "B3: works: $works");
}
all_works('B3: with them');
cmp_ok(sql("SELECT count(*) FROM log WHERE op = 'DELETE'"), '>', 0, 'B3: triggers see what happens to tasks');
for my $removed ('DROP TRIGGER log_it ON jobqueue.tasks', 'DROP TRIGGER first ON jobqueue.tasks_live',
	'DROP INDEX jobqueue.mine_idx, jobqueue.other',
	'ALTER TABLE jobqueue.tasks DROP CONSTRAINT small', 'DROP TRIGGER each_statement ON jobqueue.tasks_live',
		'DROP STATISTICS s',
	'DROP EVENT TRIGGER on_ddl', 'DROP PUBLICATION everything') {
	my ($status, $out, $error) = $node->psql('app', $removed);
	is($error, '', "B3: removed: $removed");
}
sql('CREATE ROLE stranger LOGIN');
my ($status, $out, $error) = $node->psql('app', 'ALTER TABLE jobqueue.tasks ADD COLUMN extra text',
	extra_params => [ '-U', 'stranger' ]);
like($error, qr/permission denied|must be owner/, 'B3: who does not own the table hears that');

# --------------------------------------------------------------------------------------------------------------------
# E2: ids that do not come in order

sub runs {
	my ($name, $statement, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = sql("SELECT count(*) FROM ledger");
	sql($statement);
	wait_sql($node, 'app', 'SELECT count(*) FROM ledger', $before + ($count // 1), $name);
}

sql('TRUNCATE ledger');
runs('tasks by plain INSERTs', "INSERT INTO jobqueue.tasks (type) SELECT 'note' FROM generate_series(1, 20)", 20);
sql('TRUNCATE ledger; TRUNCATE jobqueue.tasks RESTART IDENTITY');
runs('E2: TRUNCATE ... RESTART IDENTITY, then an INSERT', "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
is(sql('SELECT min(task) FROM ledger'), 1, '... has the first id');
sql("SELECT setval('jobqueue.tasks_id_seq', 1000)");
runs('E2: setval forwards', "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
sql("SELECT setval('jobqueue.tasks_id_seq', 500)");
runs('E2: setval backwards', "INSERT INTO jobqueue.tasks (type) VALUES ('note'), ('note')", 2);
runs('E2: COPY after that', "COPY jobqueue.tasks (type) FROM stdin;\nnote\nnote\n\\.\n", 2);
sql('ALTER SEQUENCE jobqueue.tasks_id_seq RESTART WITH 300');
runs('E2: ALTER SEQUENCE ... RESTART', "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
runs('E2: an id that the statement brings', "INSERT INTO jobqueue.tasks (id, type) VALUES (7, 'note')");
runs('E2: an id far ahead', "INSERT INTO jobqueue.tasks (id, type) VALUES (7000000, 'note')");
runs('E2: and then one in order', "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
runs('E2: several ids', "INSERT INTO jobqueue.tasks (type, id) SELECT 'note', g FROM generate_series(10, 12) g", 3);
runs('E2: of another table',
	"CREATE TABLE source AS SELECT 20::bigint AS id; WITH x AS (INSERT INTO jobqueue.tasks (id, type) SELECT id, "
		. "'note' FROM source RETURNING id) SELECT count(*) FROM x");
runs('E2: from a function', "DO \$\$ BEGIN INSERT INTO jobqueue.tasks (id, type) VALUES (22, 'note'); END \$\$");
runs('E2: a prepared statement',
	"PREPARE p AS INSERT INTO jobqueue.tasks (id, type) VALUES (\$1, 'note'); EXECUTE p(24); EXECUTE p(23)", 2);
runs('E2: COPY with ids', "COPY jobqueue.tasks (id, type) FROM stdin;\n31\tnote\n30\tnote\n\\.\n", 2);
runs('E2: MERGE',
	"MERGE INTO source USING (VALUES (1)) v(a) ON false WHEN NOT MATCHED THEN INSERT VALUES (a); INSERT INTO "
		. "jobqueue.tasks (id, type) VALUES (40, 'note')");
runs('E2: into the leaf', "INSERT INTO jobqueue.tasks_live (id, type) VALUES (41, 'note')");
runs('E2: into the leaf, without id', "INSERT INTO jobqueue.tasks_live (type) VALUES ('note')");
runs('E2: in a group', "INSERT INTO jobqueue.tasks (id, type, group_key) VALUES (42, 'note', 'g')");
sql('ALTER SEQUENCE jobqueue.tasks_id_seq INCREMENT BY -1 MINVALUE -1000 RESTART WITH 200');
runs('E2: a sequence that counts down',
	"INSERT INTO jobqueue.tasks (type) VALUES ('note'); INSERT INTO jobqueue.tasks (type) VALUES ('note')", 2);
sql('ALTER SEQUENCE jobqueue.tasks_id_seq INCREMENT BY 1 RESTART WITH 400 CACHE 20');
my $early = $node->background_psql('app');
$early->query_safe("INSERT INTO jobqueue.tasks (type) VALUES ('note')");
runs('E2: ids that are drawn ahead: later', "INSERT INTO jobqueue.tasks (type) VALUES ('note')");
my $noted = sql('SELECT count(*) FROM ledger');
$early->query_safe("INSERT INTO jobqueue.tasks (type) VALUES ('note')");
wait_sql($node, 'app', 'SELECT count(*) FROM ledger', $noted + 1, 'E2: ids that are drawn ahead: earlier');
$early->quit;
sql('ALTER SEQUENCE jobqueue.tasks_id_seq CACHE 1');
sql("SELECT setval('jobqueue.tasks_id_seq', 100)");
runs('E2: after a task with a higher id than the sequence', "SELECT jobqueue.enqueue('note', after => ARRAY[7000000])");
fails("SELECT jobqueue.enqueue('note', after => ARRAY[7000001])", '22023', 'E2: after one that was never there');
is(sql("SELECT count(*) FROM jobqueue.tasks WHERE last_error IS NOT NULL"), 0, 'E2: nothing ran twice');

# claim()
sql('ALTER SEQUENCE jobqueue.tasks_id_seq RESTART WITH 5000');
my $consumer = $node->background_psql('app');
sql("INSERT INTO jobqueue.tasks (type, queue) SELECT 'outside', 'out' FROM generate_series(1, 5)");
is($consumer->query_safe("SELECT count(*) FROM jobqueue.claim('out', 10)"), 5, 'claimed');
sql("SELECT setval('jobqueue.tasks_id_seq', 4000)");
sql("INSERT INTO jobqueue.tasks (type, queue) VALUES ('outside', 'out')");
is($consumer->query_safe("SELECT id FROM jobqueue.claim('out', 10)"), 4001, 'E2: claim() after setval backwards');
sql("INSERT INTO jobqueue.tasks (id, type, queue) VALUES (50, 'outside', 'out')");
is($consumer->query_safe("SELECT id FROM jobqueue.claim('out', 10)"), 50, 'E2: claim() after a low id');
$consumer->quit;

# --------------------------------------------------------------------------------------------------------------------
# E3: session_replication_role

my $replica = "SET session_replication_role = replica;";
sql("ALTER TABLE $_ DISABLE TRIGGER ALL; ALTER TABLE $_ ENABLE TRIGGER ALL")
	for qw(jobqueue.tasks jobqueue.tasks_live jobqueue.queues);
is(sql(<<'SQL'), '', 'E3: every trigger of ours fires always');
	SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
	WHERE p.pronamespace = 'jobqueue'::regnamespace AND c.relnamespace = 'jobqueue'::regnamespace AND t.tgenabled <> 'A'
SQL
sql("SELECT setval('jobqueue.tasks_id_seq', 10000)");
is(sql("$replica SELECT jobqueue.pause_queue('p')"), 't', 'paused');
my $paused = sql("SELECT jobqueue.enqueue('note', queue => 'p')");
runs('E3: tasks of other queues run', "SELECT jobqueue.enqueue('note')");
is(sql("SELECT status FROM jobqueue.tasks WHERE id = $paused"), 'pending', 'E3: pause_queue pauses');
runs('E3: resume_queue resumes', "$replica SELECT jobqueue.resume_queue('p')");
sql("$replica UPDATE jobqueue.queues SET paused_at = now() WHERE queue = 'p'");
$paused = sql("SELECT jobqueue.enqueue('note', queue => 'p')");
runs('E3: other queues', "SELECT jobqueue.enqueue('note')");
is(sql("SELECT status FROM jobqueue.tasks WHERE id = $paused"), 'pending',
	'E3: a row of queues that is changed by hand counts');
runs('E3: likewise', "$replica UPDATE jobqueue.queues SET paused_at = NULL WHERE queue = 'p'");
runs('E3: register_handler',
	"SELECT jobqueue.enqueue('note2'); $replica SELECT jobqueue.register_handler('note2', 'note(jsonb)')");
runs('E3: a plain INSERT', "$replica INSERT INTO jobqueue.tasks (type) VALUES ('note')");
my $later = sql("SELECT jobqueue.enqueue('note', delay => '1 day')");
runs('E3: an UPDATE by hand', "$replica UPDATE jobqueue.tasks SET status = 'pending', run_at = NULL WHERE id = $later");
runs('E3: a schedule', "$replica SELECT jobqueue.schedule('often', '1 second', 'note')");
is(sql("$replica SELECT jobqueue.unschedule('often')"), 't', 'E3: unscheduled');

# --------------------------------------------------------------------------------------------------------------------
# E14: dumps

my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
sub dumps {
	my ($name, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->command_ok([ 'pg_dump', '-d', 'app', '-f', $dump, @options ], "E14: $name");
	return slurp_file($dump);
}
sql('CREATE ROLE dba LOGIN; ALTER DATABASE app OWNER TO dba; CREATE ROLE dumper LOGIN BYPASSRLS; GRANT '
	. 'pg_read_all_data TO dumper');
sql("ALTER TABLE $_ OWNER TO dba") for qw(ledger seen log source);
unlike(dumps('pg_dump -n jobqueue', '-n', 'jobqueue'), qr/COPY/, '... finds nothing that is not the extension\'s');
my $with_data = qr/CREATE EXTENSION.*COPY jobqueue.tasks_live/s;
like(dumps('the queue alone', '-n', 'jobqueue', '-e', 'jobqueue'), $with_data, '... with its tasks');
like(dumps('by a role that may read everything', '-U', 'dumper'), $with_data, '... with its tasks');
my $without = dumps('by the owner of the database, without the queue', '-U', 'dba', '-N', 'jobqueue');
like($without, qr/CREATE EXTENSION.*COPY public.ledger/s, '... has the extension');
unlike($without, qr/COPY jobqueue/, '... and none of its data');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ],
	'E14: it can be restored');
is($node->safe_psql('restored', 'SELECT jobqueue.adopt()'), 'f', 'E14: and is no copy');

# --------------------------------------------------------------------------------------------------------------------
# E15: default privileges, DROP EXTENSION

$node->safe_psql('postgres', 'CREATE ROLE eve LOGIN; CREATE DATABASE generous');
$node->safe_psql('generous', join ';', map { "ALTER DEFAULT PRIVILEGES GRANT ALL ON $_ TO eve, PUBLIC" }
	qw(TABLES SEQUENCES FUNCTIONS TYPES SCHEMAS));
$node->safe_psql('generous', 'CREATE EXTENSION jobqueue');
is($node->safe_psql('generous',
	<<'SQL'), '', 'E15: default privileges give nobody a right to anything of the extension');
	SELECT o, a.grantee::regrole, a.privilege_type FROM (
		SELECT oid::regclass::text AS o, relacl AS acl, relowner AS owner FROM pg_class
			WHERE relnamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)),
			proowner FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT oid::regtype::text, typacl, typowner FROM pg_type WHERE typnamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT nspname, nspacl, nspowner FROM pg_namespace WHERE nspname = 'jobqueue') x, aclexplode(acl) a
	WHERE a.grantee <> x.owner AND NOT (a.grantee = 0 AND o LIKE 'jobqueue._check_task(%') -- PUBLIC may run it
		-- what the owner of the database reads is the extension's own grant
		AND NOT (a.grantee = 'pg_database_owner'::regrole AND a.privilege_type IN ('SELECT', 'USAGE'))
SQL
for my $table (qw(access incarnation tasks handlers)) {
	($status, $out, $error) = $node->psql('generous', "DELETE FROM jobqueue.$table", extra_params => [ '-U', 'eve' ]);
	like($error, qr/permission denied/, "E15: nobody may write $table");
}
$node->safe_psql('generous', 'DROP EXTENSION jobqueue');
is($node->safe_psql('generous', "SELECT to_regnamespace('jobqueue') IS NULL"), 't',
	'E15: DROP EXTENSION removes the schema');
$node->safe_psql('generous', 'CREATE SCHEMA jobqueue; CREATE EXTENSION jobqueue');
pass('E15: an empty schema of a superuser is no obstacle');
($status, $out, $error) = $node->psql('generous', 'DROP SCHEMA jobqueue CASCADE');
like($error, qr/extension jobqueue requires it/, 'E15: the schema belongs to the extension');
$node->safe_psql('generous', "SET search_path = ''; DROP EXTENSION jobqueue; CREATE EXTENSION jobqueue");
pass('E15: whatever the search_path');

is(unexpected_in_log($node), '', 'nothing unexpected in the log');
$node->stop;

# --------------------------------------------------------------------------------------------------------------------
# B3: where such changes are not refused, because the library is not preloaded

my $bare = start_node('bare', shared_preload_libraries => undef);
create_queue($bare, 'app');
$bare->safe_psql('app', 'SET client_min_messages = error;' . $_) for 'CREATE TABLE seen (task bigint, extra text)',
	q{CREATE FUNCTION row_handler(t jobqueue.tasks) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (t.id, }
		. q{t.status || t.attempts) $$},
	q{SELECT jobqueue.register_handler('row', 'row_handler(jobqueue.tasks)')};
$bare->safe_psql('app',
	"ALTER TABLE jobqueue.tasks ADD COLUMN extra text DEFAULT 'x', ADD COLUMN gone int; ALTER TABLE jobqueue.tasks "
		. "DROP COLUMN gone");
my $sql = sub { $bare->safe_psql('app', $_[0]) };
$sql->("SELECT jobqueue.enqueue('outside'), jobqueue.enqueue('outside'), jobqueue.enqueue('outside', queue => 'mine')");
is($sql->("SELECT string_agg(id || status || attempts || extra, ',' ORDER BY id) FROM jobqueue.claim(max_tasks => "
	. "10)"), '1processing1x,2processing1x',
	'B3: an extra column: claim()');
is($sql->("SELECT id || status || attempts || extra FROM jobqueue.claim('mine', types => '{outside}')"),
	'3processing1x', 'B3: ... of types');
is($sql->('SELECT jobqueue.complete(1, 1), jobqueue.fail(2, 1, $$no$$, retryable => false), jobqueue.release(3, 1)'),
	't|failed|t', 'B3: ... and its end');
is($sql->('SELECT jobqueue.retry(2)'), 't', 'B3: ... retry');
$sql->("SELECT jobqueue.enqueue('row'), jobqueue.enqueue('row', group_key => 'h')");
is($sql->("SELECT count(*) FROM jobqueue.drain()"), 2, 'B3: ... drain()');
is($sql->("SELECT string_agg(extra, ',') FROM seen"), 'processing1,processing1', 'B3: ... handlers that take the row');
# the policies are in the library: without it there is none
$sql->("CREATE ROLE con LOGIN; SELECT jobqueue.grant_access('con', 'consumer')");
my @seen = map { ($bare->psql('app', "$_ SELECT count(*) > 0 FROM jobqueue.tasks",
	extra_params => [ '-U', 'con' ]))[1] } '', 'SELECT jobqueue.version();';
is($seen[0], 'f', 'where the library is not loaded, nobody but the owner sees a row');
like($seen[1], qr/t$/, '... and where it is, who may');
$bare->stop;

# An extra column that was made there is no reason not to run, here; and it can be dropped.
$bare->append_conf('postgresql.conf', "shared_preload_libraries = 'jobqueue'");
$bare->start;
$sql->("SELECT jobqueue.enqueue('row'), jobqueue.enqueue('row', group_key => 'h')");
wait_sql($bare, 'app', 'SELECT count(*) FROM seen', 4, 'B3: workers run, too');
is($sql->("SELECT count(*) FROM jobqueue.tasks WHERE last_error IS NOT NULL AND type = 'row'"), 0,
	'B3: ... without an error');
$sql->('ALTER TABLE jobqueue.tasks DROP COLUMN extra');
$bare->stop;
done_testing();
