# Handlers run as the role that registered them, and as no other role.
#
# - session_user = current_user = that role, with the settings of ALTER ROLE … SET, also for a role that may not log in,
#   and for a superuser; user code cannot get back to another identity
# - nothing that a task leaves behind is seen by the next one in the same process: settings, temporary tables, prepared
#   statements, advisory locks, cursors, SET ROLE
# - deferred triggers and constraint triggers run as the role, too
# - a role that is dropped, or lost CONNECT, is not served: said once, its tasks stay queued, others are served
# - rights that are given back are noticed
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

# One worker for each role at most: the same process runs one task of the role after the other.
my $node = start_node('roles', autovacuum => 'off', 'jobqueue.max_workers' => 8, max_worker_processes => 20,
	'jobqueue.poll_interval' => '1s');
create_queue($node, 'app');

$node->safe_psql('app', <<'SQL');
	CREATE ROLE plain LOGIN;
	CREATE ROLE nologin NOLOGIN;
	CREATE ROLE settled LOGIN;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE "Odd ""name" LOGIN;
	ALTER ROLE settled SET work_mem = '7MB';
	ALTER ROLE settled SET search_path = private, public;
	ALTER ROLE settled IN DATABASE app SET application_name = 'set by the role';
	ALTER ROLE nologin SET work_mem = '9MB';
	ALTER DATABASE app SET DateStyle = 'German';
	CREATE SCHEMA private;
	GRANT USAGE ON SCHEMA private TO settled;
	GRANT CREATE ON SCHEMA public TO plain, nologin, settled, boss;
	CREATE TABLE seen (task bigint, type text, what text);
	GRANT INSERT, SELECT ON seen TO PUBLIC;
	CREATE FUNCTION who(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_build_object('session', session_user, 'current', current_user, 'work_mem',
			current_setting('work_mem'),
			'path', current_setting('search_path'), 'super', current_setting('is_superuser'), 'style',
				current_setting('DateStyle'))
	$$;
SQL
allow_login($node, 'nologin');
my @roles = ('plain', 'nologin', 'settled', 'boss', 'Odd "name');
for my $role (@roles) {
	(my $quoted = $role) =~ s/"/""/g;
	$node->safe_psql('app',
		qq{SET client_min_messages = error; SELECT jobqueue.register_handler('who $quoted', 'who(jsonb)', run_as => }
			. qq{'$role')});
}
my %ids =
	map { $_ =>
		$node->safe_psql('app', "SELECT jobqueue.enqueue(type) FROM jobqueue.handlers WHERE run_as = '$_'") } @roles;
my %expected = map { $_ => { work_mem => '4MB', path => '"$user", public', super => 'off' } } @roles;
$expected{settled} = { work_mem => '7MB', path => 'private, public', super => 'off' };
$expected{nologin}{work_mem} = '9MB';
$expected{boss}{super} = 'on';
for my $role (@roles) {
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $ids{$role}", 'completed', "$role: run");
	is($node->safe_psql('app',
		<<SQL), join('|', $role, $role, @{ $expected{$role} }{qw(work_mem path super)}, 'German, DMY'),
		SELECT result->>'session', result->>'current', result->>'work_mem', result->>'path', result->>'super',
			result->>'style'
		FROM jobqueue.tasks WHERE id = $ids{$role}
SQL
		"$role: its own identity and settings");
}
is($node->safe_psql('app', "SELECT count(DISTINCT pid) = count(*) FROM jobqueue.worker_status"), 't',
	'a process for each role');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE a.usename <> w.role AND "
		. "w.role <> 'nologin'"),
	0, 'connected as the role');

# --------------------------------------------------------------------------------------------------------------------
# No residue. All by one process, one after the other: a single worker is left for this.

$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 1');
$node->reload;
$node->safe_psql('app', <<'SQL');
	GRANT plain TO nologin;
	CREATE FUNCTION mess(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		SET work_mem = '77MB';
		SET search_path = pg_temp, nowhere;
		SET TIME ZONE 'Asia/Tokyo';
		SET statement_timeout = '1ms';
		SET row_security = off;
		SET my.own = 'left';
		SET default_transaction_read_only = on;
		SET default_transaction_isolation = 'serializable';
		SET synchronous_commit = off;
		CREATE TEMP TABLE left_behind (x int);
		CREATE TEMP TABLE seen (task bigint, type text, what text);
		CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''epoch''::timestamptz';
		PERFORM pg_advisory_lock(7);
		PERFORM pg_advisory_lock_shared(8);
		EXECUTE 'PREPARE left_prepared AS SELECT 1';
		EXECUTE 'DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1';
		PERFORM setseed(0.5);
		SET ROLE plain;
	END $$;
	CREATE FUNCTION tidy(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_build_object(
			'pid', pg_backend_pid(),
			'user', session_user || ' ' || current_user,
			'work_mem', current_setting('work_mem'),
			'path', current_setting('search_path'),
			'zone', current_setting('TimeZone'),
			'timeout', current_setting('statement_timeout'),
			'row_security', current_setting('row_security'),
			'own', nullif(current_setting('my.own', true), ''),
			'readonly', current_setting('transaction_read_only'),
			'isolation', current_setting('transaction_isolation'),
			'temp', (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_my_temp_schema()),
			'tempf', (SELECT count(*) FROM pg_catalog.pg_proc WHERE pronamespace = pg_my_temp_schema()),
			'prepared', (SELECT count(*) FROM pg_prepared_statements WHERE name ~ 'left'),
			'cursors', (SELECT count(*) FROM pg_cursors WHERE name ~ 'left'),
			'locks', (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'))
	$$;
	CREATE PROCEDURE mess_committed(payload jsonb) LANGUAGE plpgsql AS $$
	BEGIN
		SET work_mem = '78MB';
		SET my.own = 'left by procedure';
		SET ROLE plain;
		CREATE TEMP TABLE left_behind (x int);
		PERFORM pg_advisory_lock(9);
		COMMIT;
		SET search_path = pg_temp;
		COMMIT;
	END $$;
	CREATE FUNCTION mess_and_fail(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM mess('{}');
		RAISE EXCEPTION 'on purpose';
	END $$;
	SET client_min_messages = error;
	SELECT jobqueue.register_handler('mess', 'mess(jsonb)', run_as => 'nologin');
	SELECT jobqueue.register_handler('mess procedure', 'mess_committed(jsonb)', run_as => 'nologin');
	SELECT jobqueue.register_handler('mess and fail', 'mess_and_fail(jsonb)', run_as => 'nologin', max_attempts => 1);
	SELECT jobqueue.register_handler('tidy', 'tidy(jsonb)', run_as => 'nologin');
	GRANT TEMP ON DATABASE app TO nologin;
SQL
my $first = $node->safe_psql('app', "SELECT jobqueue.enqueue('tidy')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $first", 'completed', 'a tidy process');
my $clean = $node->safe_psql('app', "SELECT result - 'pid' FROM jobqueue.tasks WHERE id = $first");
like($clean, qr/"user": "nologin nologin"/, 'as it should be');
for my $mess ('mess', 'mess procedure', 'mess and fail', 'mess') {
	my ($dirty, $after) = split /\n/, $node->safe_psql('app',
		"SELECT jobqueue.enqueue('$mess'); SELECT jobqueue.enqueue('tidy')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $dirty",
		$mess =~ /fail/ ? 'failed' : 'completed', "$mess: ran")
	  or diag $node->safe_psql('app', "SELECT last_error FROM jobqueue.tasks WHERE id = $dirty");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $after", 'completed',
		"$mess: the next task runs");
	is($node->safe_psql('app', "SELECT result - 'pid' FROM jobqueue.tasks WHERE id = $after"), $clean,
		"$mess: nothing is left");
}
is($node->safe_psql('app', "SELECT count(DISTINCT result->>'pid') FROM jobqueue.tasks WHERE type = 'tidy'"), 1,
	'all of that in one process');

# Deferred triggers run at the commit: as the role. The handler ends in another role.
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION record_user() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen (type, what) VALUES ('deferred', session_user || ' ' || current_user || ' ' ||
			current_setting('is_superuser'));
		RETURN NULL;
	END $$;
	CREATE TABLE watched (x int);
	GRANT INSERT ON watched TO nologin;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON watched INITIALLY DEFERRED FOR EACH ROW
		EXECUTE FUNCTION record_user();
	CREATE FUNCTION watch(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.watched VALUES (1)';
	CREATE FUNCTION escape(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		RESET ROLE;
		RESET SESSION AUTHORIZATION;
		RETURN to_jsonb(session_user || ' ' || current_user);
	END $$;
	CREATE FUNCTION grab(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET SESSION AUTHORIZATION postgres;
		END $$;
	SELECT jobqueue.register_handler('watch', 'watch(jsonb)', run_as => 'nologin');
	SELECT jobqueue.register_handler('escape', 'escape(jsonb)', run_as => 'nologin');
	SELECT jobqueue.register_handler('grab', 'grab(jsonb)', run_as => 'nologin', max_attempts => 1);
SQL
my ($watch, $escape, $grab) = map { $node->safe_psql('app', "SELECT jobqueue.enqueue('$_')") } qw(watch escape grab);
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $watch", 'completed', 'deferred trigger');
is($node->safe_psql('app', "SELECT what FROM seen WHERE type = 'deferred'"), 'nologin nologin off',
	'deferred triggers run as the role');
wait_sql($node, 'app', "SELECT result FROM jobqueue.tasks WHERE id = $escape", '"nologin nologin"',
	'RESET leads nowhere');
wait_sql($node, 'app', "SELECT status, last_sqlstate FROM jobqueue.tasks WHERE id = $grab", 'failed|42501',
	'SET SESSION AUTHORIZATION is refused');
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 8');
$node->reload;

# --------------------------------------------------------------------------------------------------------------------
# Roles that are no longer served

$node->safe_psql('app', <<'SQL');
	CREATE ROLE crowd;
	CREATE ROLE leaver LOGIN IN ROLE crowd;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE weak LOGIN;
	REVOKE CONNECT ON DATABASE app FROM PUBLIC;
	GRANT CONNECT ON DATABASE app TO plain, nologin, settled, crowd, stranger, weak, "Odd ""name";
	SET client_min_messages = error;
	CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	SELECT jobqueue.register_handler('of ' || r, 'nothing(jsonb)', run_as => r)
		FROM unnest(ARRAY['leaver', 'stranger', 'weak', 'plain']::name[]) r;
	SELECT jobqueue.enqueue('of ' || r) FROM unnest(ARRAY['leaver', 'stranger', 'weak', 'plain']) r;
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type ~ '^of ' AND status = 'completed'", 4,
	'all four are served');
my $offset = log_size($node);
# Their processes are still there, idle: the change must reach them.
$node->safe_psql('app', 'DROP ROLE leaver');
$node->safe_psql('app', 'REVOKE CONNECT ON DATABASE app FROM stranger');
$node->safe_psql('app',
	'REVOKE EXECUTE ON FUNCTION nothing(jsonb) FROM PUBLIC; GRANT EXECUTE ON FUNCTION nothing(jsonb) TO plain, '
		. 'stranger, crowd');
my %left = map { $_ => $node->safe_psql('app', "SELECT jobqueue.enqueue('of $_')") } qw(leaver stranger weak);
for my $round (1 .. 20) {
	my $id = $node->safe_psql('app', "SELECT jobqueue.enqueue('of plain')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'others are served')
	  if $round == 1 || $round == 20;
}
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.worker_status WHERE role IN ('leaver', 'stranger') AND state = 'running'", 0,
	'no process runs anything for them');
# The fallback poll (1 s) and every enqueue tries again: still one message each.
ok(wait_for(sub { log_matches($node, qr/leaver|role with OID/, $offset) && log_matches($node, qr/stranger/, $offset) }),
	'the log says so');
for my $round (1 .. 5) {
	$node->safe_psql('app', "SELECT jobqueue.enqueue('of $_') FROM pg_sleep(0.5)") for qw(leaver stranger);
}
is($node->safe_psql('app',
	"SELECT string_agg(DISTINCT status, ' ') FROM jobqueue.tasks WHERE type IN ('of leaver', 'of stranger') AND "
		. "status <> 'completed'"),
	'pending', 'their tasks stay queued');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE type IN ('of leaver', 'of stranger') AND (attempts > 1 OR last_error "
		. "IS NOT NULL)"),
	0, 'nothing is charged to them');
my @about_leaver = log_matches($node, qr/jobqueue \w+: (WARNING|LOG|ERROR|FATAL): .*(leaver|role)/, $offset);
my @about_stranger = log_matches($node, qr/jobqueue \w+: (WARNING|LOG|ERROR|FATAL): .*stranger/, $offset);
is(scalar(grep { /leaver/ } @about_leaver), 1, 'one message about the dropped role') or diag join "\n", @about_leaver;
is(scalar(@about_stranger), 1, 'one message about the role without CONNECT') or diag join "\n", @about_stranger;
is(scalar(log_matches($node, qr/jobqueue \w+: FATAL:/, $offset)), 0, 'no process had to fail to find out')
  or diag join "\n", log_matches($node, qr/jobqueue \w+: FATAL:/, $offset);

# No right to run the function: that is the handler's error, with its SQLSTATE.
wait_sql($node, 'app', "SELECT last_sqlstate FROM jobqueue.tasks WHERE id = $left{weak}", '42501',
	'EXECUTE revoked: an error of the task');

# Given back: served again, without a restart.
$node->safe_psql('app', 'GRANT CONNECT ON DATABASE app TO stranger');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'of stranger' AND status <> 'completed'", 0,
	'CONNECT granted again: served again');
$node->safe_psql('app', "CREATE ROLE leaver LOGIN IN ROLE crowd; GRANT EXECUTE ON FUNCTION nothing(jsonb) TO leaver");
$node->safe_psql('app',
	"SET client_min_messages = error; SELECT jobqueue.register_handler('of leaver', 'nothing(jsonb)', run_as => "
		. "'leaver')");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'of leaver' AND status <> 'completed'", 0,
	'a new role of that name, registered anew: served');

# Superusers can be excluded.
$node->append_conf('postgresql.conf', 'jobqueue.allow_superuser_handlers = off');
$node->reload;
wait_sql($node, 'app', 'SHOW jobqueue.allow_superuser_handlers', 'off', 'superusers are excluded');
# Every process has had the time to notice when something that is due in a second was done.
my $plain = $node->safe_psql('app', "SELECT jobqueue.enqueue('of plain', delay => '1 s')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $plain", 'completed', 'all are told');
my $id = $node->safe_psql('app', "SELECT jobqueue.enqueue('who boss')");
my ($status, $out, $err) =
	$node->psql('app', "SELECT jobqueue.register_handler('new boss', 'who(jsonb)', run_as => 'boss')");
isnt($status, 0, 'a superuser cannot register a handler then');
$plain = $node->safe_psql('app', "SELECT jobqueue.enqueue('of plain', delay => '1 s')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $plain", 'completed', 'others are served');
is($node->safe_psql('app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $id"), 'pending|0',
	'its tasks wait');
$node->append_conf('postgresql.conf', 'jobqueue.allow_superuser_handlers = on');
$node->reload;
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'and run when it is allowed again');

is(unexpected_in_log($node,
	qr/leaver|stranger|superuser|jobqueue worker: (ERROR|WARNING|LOG): .*(on purpose|permission denied)/), '',
		'nothing unexpected in the log');
$node->stop;
done_testing();
