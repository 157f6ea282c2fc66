# What changes under running processes: versions, settings, the extension itself.
#
# - the extension's version is not the library's: no handler runs, one message says so; again the same: they run
# - settings take effect by pg_reload_conf(), in processes that live: max_workers 0 and back, allow_superuser_handlers;
#   each has the default that is documented, and refuses nonsense
# - CREATE EXTENSION twice; dropped and created again, several times in one session, and in one transaction
# - DROP EXTENSION that fails, because a handler takes jobqueue.tasks or the caller may not, stops nothing: the handler
#   that is running at that time is not charged an attempt, workers go on
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('versions', autovacuum => 'off', 'jobqueue.poll_interval' => '200ms', max_worker_processes => 16);
create_queue($node, 'app', 'clock');
create_ledger($node, 'app');
# not a superuser's: these are excluded below
$node->safe_psql('clock', <<'SQL');
	CREATE ROLE ticker LOGIN;
	CREATE FUNCTION tick(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	SELECT jobqueue.register_handler('tick', 'tick(jsonb)', run_as => 'ticker');
SQL
my $version = $node->safe_psql('app', 'SELECT jobqueue.version()');
is($node->safe_psql('app', "SELECT extversion FROM pg_extension WHERE extname = 'jobqueue'"), $version,
	'one version at first');
SKIP: {
	skip 'pg_get_loaded_modules came with version 18', 1 if $node->pg_version < 18;
	is($node->safe_psql('app', "SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'jobqueue'"), $version,
		'... which the server knows, too');
}

# Time for everybody to notice something and to act on it several times, measured by what another database does
# meanwhile.
sub let_time_pass {
	my ($seconds, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = $node->safe_psql('clock', "SELECT jobqueue.enqueue('tick', delay => '$seconds s')");
	wait_sql($node, 'clock', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		"$name: another database goes on");
}

sub enqueue {
	my ($type, $payload) = @_;
	return $node->safe_psql('app', "SELECT jobqueue.enqueue('$type', '" . ($payload // '{}') . "')");
}

sub is_completed {
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', $name);
}

sub set {
	my (%settings) = @_;
	$node->append_conf('postgresql.conf', join '', map { "$_ = $settings{$_}\n" } sort keys %settings);
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}

# --------------------------------------------------------------------------------------------------------------------
# Versions. A worker is there, and idle: it must notice, too.

is_completed(enqueue('note'), 'run');
for my $other ('0.0.1', "$version.1") {
	my $offset = log_size($node);
	$node->safe_psql('app', "UPDATE pg_extension SET extversion = '$other' WHERE extname = 'jobqueue'");
	ok(wait_for(sub { log_matches($node, qr/jobqueue .*\Q$other\E/, $offset) }), "version $other: the log says so");
	let_time_pass(1, "version $other");
	my @ids = map { enqueue('note') } 1 .. 5;
	$node->safe_psql('app', "COPY jobqueue.tasks (type) FROM STDIN;\nnote\n\\.\n");
	push @ids, enqueue('note', '{"n": 6}');
	let_time_pass(2, "version $other");
	is($node->safe_psql('app',
		"SELECT count(*), min(status), max(status), max(attempts) FROM jobqueue.tasks WHERE status <> 'completed'"),
		'7|pending|pending|0', "version $other: nothing runs");
	my @lines = log_matches($node, qr/jobqueue \w+: (?:LOG|WARNING|ERROR|FATAL):.*version/, $offset);
	is(scalar(@lines), 1, "version $other: one message") or diag join "\n", @lines;
	like($lines[0] // '', qr/\Q$other\E/, "version $other: it has the version of the extension");
	like($lines[0] // '', qr/(?<![\d.])\Q$version\E(?![\d.])/, "version $other: and that of the library");
	like(log_since($node, $offset), qr/HINT:  .*(?:ALTER EXTENSION|UPDATE|restart)/i,
		"version $other: and what to do about it");
	is(unexpected_in_log($node, qr/version/, $offset), '', "version $other: and nothing else to complain about");
	my @starts = log_matches($node, qr/background worker "jobqueue|jobqueue (?:scheduler|worker): LOG:.*start/i,
		$offset);
	cmp_ok(scalar(@starts), '<', 20, "version $other: processes do not come and go");

	$node->safe_psql('app', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'jobqueue'");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0,
		"version $version again: all run")
	  or $node->restart;
}

# Found so at the start of the server; a repair needs no restart.
$node->safe_psql('app', "UPDATE pg_extension SET extversion = '0.0.2' WHERE extname = 'jobqueue'");
$node->stop;
my $offset = log_size($node);
$node->start;
my $id = enqueue('note');
ok(wait_for(sub { log_matches($node, qr/jobqueue .*0\.0\.2/, $offset) }),
	'another version at the start: the log says so');
let_time_pass(2, 'another version at the start');
is($node->safe_psql('app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $id"), 'pending|0',
	'another version at the start: nothing runs');
is(scalar(log_matches($node, qr/jobqueue \w+: \w+:.*0\.0\.2/, $offset)), 1,
	'another version at the start: one message');
$node->safe_psql('app', "UPDATE pg_extension SET extversion = '$version' WHERE extname = 'jobqueue'");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'repaired: it runs, without a restart')
  or $node->restart;

# --------------------------------------------------------------------------------------------------------------------
# Settings

my %default = (max_workers => 4, poll_interval => '200ms', worker_idle_timeout => '1min', notify_mode => 'coalesced',
	completed_retention => '7d', failed_retention => '-1', allow_superuser_handlers => 'on',
		worker_synchronous_commit => 'off',
	kill_stuck => 'off', max_crashes => 3, timeout_grace => '3s', fused_time => '10ms', fused_tasks => 60,
		fused_after => 3);
is($node->safe_psql('app', "SHOW jobqueue.$_"), $default{$_}, "SHOW jobqueue.$_") for sort keys %default;
is($node->safe_psql('app',
	"SELECT string_agg(name || ' ' || boot_val || ' ' || coalesce(unit, '-'), ', ' ORDER BY name) FROM pg_settings "
		. "WHERE name LIKE 'jobqueue.%'"),
	'jobqueue.allow_superuser_handlers on -, jobqueue.completed_retention 604800 s, jobqueue.failed_retention -1 s, '
	  . 'jobqueue.fused_after 3 -, jobqueue.fused_tasks 60 -, jobqueue.fused_time 10 ms, jobqueue.kill_stuck off -, '
	  . 'jobqueue.max_crashes 3 -, jobqueue.max_databases 1024 -, '
	  . 'jobqueue.max_workers 4 -, jobqueue.notify_mode coalesced -, '
	  . 'jobqueue.poll_interval 5000 ms, jobqueue.queue_order weighted -, jobqueue.start_paused off -, '
	  . 'jobqueue.timeout_grace 3000 ms, '
	  . 'jobqueue.worker_idle_timeout 60 s, jobqueue.worker_synchronous_commit off -',
	  'no others; defaults and units as documented');
is($node->safe_psql('app',
	"SELECT count(*) FROM pg_settings WHERE name LIKE 'jobqueue.%' AND (short_desc = '' OR short_desc IS NULL OR "
		. "context = 'user' OR (context = 'postmaster') <> (name = 'jobqueue.max_databases'))"),
	0, 'each is described, set without a restart but for one, and not by everybody');
for my $bad ("max_workers = -1", "max_workers = 'many'", "poll_interval = 0", "completed_retention = -1",
	"failed_retention = -2",
	"notify_mode = 'sometimes'", "allow_superuser_handlers = 'perhaps'", "worker_idle_timeout = -1",
		"no_such_setting = 1") {
	my ($status) = $node->psql('app', "ALTER SYSTEM SET jobqueue.$bad");
	isnt($status, 0, "refused: $bad");
}
is($node->safe_psql('app', "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL"), 0,
	'and nothing of that is left');

# No workers. One that is busy is not cut off: its task is done once.
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION gated(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ledger (task) VALUES (task.id);
		PERFORM pg_advisory_xact_lock_shared(42);
	END $$;
	SELECT jobqueue.register_handler('gated', 'gated(jobqueue.tasks)', max_attempts => 1);
SQL
my $gate;

# A task behind a closed gate; its worker.
sub run_gated {
	$gate = $node->background_psql('app');
	$gate->query_safe('SELECT pg_advisory_lock(42)');
	my $gated = enqueue('gated');
	wait_sql($node, 'app',
		"SELECT count(*) FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE w.task_id = "
			. "$gated AND a.wait_event = 'advisory'",
		1, 'a task is running', 20);
	return ($gated, $node->safe_psql('app', "SELECT pid FROM jobqueue.worker_status WHERE task_id = $gated"));
}
my ($gated) = run_gated();
is_completed(enqueue('note'), 'another worker is there, idle');
set('jobqueue.max_workers' => 0);
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'idle'", 0,
	'max_workers 0: idle workers leave');
$id = enqueue('note');
my $time = $node->safe_psql('app', 'SELECT clock_timestamp()');
wait_sql($node, 'app', "SELECT clock_timestamp() > '$time'::timestamptz + interval '1.5 s'", 't',
	'max_workers 0: seven polls later');
is($node->safe_psql('app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $id"), 'pending|0',
	'max_workers 0: nothing runs');
$gate->quit;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status", 0, 'max_workers 0: the busy one leaves, too');
is($node->safe_psql('app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $id"), 'pending|0',
	'max_workers 0: and takes nothing else');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.claim()"), 0,
	'max_workers 0: claim() still leaves types with a handler');
is($node->safe_psql('app', "SELECT waiting FROM jobqueue.queue_status WHERE queue = 'default'"), 1,
	'max_workers 0: it is there to see');
set('jobqueue.max_workers' => 4);
is_completed($id, 'max_workers 4: it runs');
is_completed($gated, 'max_workers 4: what was running is completed');
is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task = $gated"), 1, 'once');

# Superusers' handlers. One worker of each kind lives; a backlog of the superuser's is being worked off.
$node->safe_psql('app', <<'SQL');
	CREATE ROLE plain LOGIN;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE TABLE ran (role name DEFAULT current_user, type text, at timestamptz DEFAULT clock_timestamp());
	GRANT INSERT ON ran TO PUBLIC;
	CREATE FUNCTION run(task jobqueue.tasks) RETURNS void LANGUAGE sql AS
		'INSERT INTO public.ran (type) VALUES (task.type); SELECT pg_sleep(0.02)';
	SET client_min_messages = error;
	SELECT jobqueue.register_handler('of boss', 'run(jobqueue.tasks)', run_as => 'boss');
	SELECT jobqueue.register_handler('of plain', 'run(jobqueue.tasks)', run_as => 'plain');
SQL
my ($of_boss, $of_plain) = (enqueue('of boss'), enqueue('of plain'));
is_completed($of_boss, "a superuser's handler runs");
is_completed($of_plain, "somebody else's, too");
$node->safe_psql('app', "SELECT count(jobqueue.enqueue('of boss')) FROM generate_series(1, 2000)");
wait_sql($node, 'app', "SELECT count(*) > 10 FROM ran WHERE role = 'boss'", 't', 'a backlog is being worked off');
set('jobqueue.allow_superuser_handlers' => 'off');
let_time_pass(1, 'superusers excluded');
my $ran = $node->safe_psql('app', "SELECT count(*) FROM ran WHERE role = 'boss'");
cmp_ok($ran, '<', 2000, 'superusers excluded: in the midst of a backlog');
$of_plain = enqueue('of plain');
is_completed($of_plain, 'superusers excluded: others go on');
let_time_pass(1, 'superusers excluded');
is($node->safe_psql('app', "SELECT count(*) FROM ran WHERE role = 'boss'"), $ran,
	'superusers excluded: living workers run nothing more of theirs');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE type = 'of boss' AND (last_error IS NOT NULL OR status NOT IN "
		. "('pending', 'completed'))"),
	0, 'superusers excluded: their tasks wait, and are charged nothing');
my ($status, undef, $err) =
	$node->psql('app', "\\set VERBOSITY verbose\nSELECT jobqueue.register_handler('new', 'run(jobqueue.tasks)')");
like($err, qr/ERROR:  42501:/, 'superusers excluded: no handler can be registered for one');
($status) =
	$node->psql('app',
		"SET client_min_messages = error; SELECT jobqueue.register_handler('new', 'run(jobqueue.tasks)', run_as => "
			. "'plain')");
is($status, 0, 'superusers excluded: but by one, for somebody else');
# One of "plain" who becomes a superuser is one.
$node->safe_psql('app', 'ALTER ROLE plain SUPERUSER');
let_time_pass(1, 'a role became a superuser');
$of_plain = enqueue('of plain');
let_time_pass(1, 'a role became a superuser');
is($node->safe_psql('app', "SELECT status, attempts FROM jobqueue.tasks WHERE id = $of_plain"), 'pending|0',
	'a role that becomes a superuser is excluded, too');
$node->safe_psql('app', 'ALTER ROLE plain NOSUPERUSER');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $of_plain", 'completed',
	'and served again when it is none');
$node->safe_psql('app',
	"SELECT count(jobqueue.cancel(id)) FROM (SELECT id FROM jobqueue.tasks WHERE type = 'of boss' AND status = "
		. "'pending' ORDER BY id OFFSET 20) t");
set('jobqueue.allow_superuser_handlers' => 'on');
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.tasks WHERE type = 'of boss' AND status NOT IN ('completed', 'cancelled')", 0,
	'superusers allowed again: the rest runs');

# --------------------------------------------------------------------------------------------------------------------
# DROP EXTENSION that fails

$node->safe_psql('app', 'CREATE ROLE stranger LOGIN');
my $worker;
for my $case ([ 'a handler takes jobqueue.tasks', 'DROP EXTENSION jobqueue',
	qr/ERROR:  2BP01:.*\n(?:.*\n)*HINT:  Use DROP \.\.\. CASCADE/ ],
	[ 'the caller may not', 'SET ROLE stranger; DROP EXTENSION jobqueue CASCADE', qr/ERROR:  42501:/ ],
	[ 'rolled back', 'BEGIN; DROP EXTENSION jobqueue CASCADE; ROLLBACK', qr/\A(?!.*ERROR)/s ])
{
	my ($name, $drop, $expected) = @$case;
	my $since = log_size($node);
	($gated, $worker) = run_gated();
	$err = is_prompt(sub {
			my (undef, undef, $stderr) = $node->psql('app', "\\set VERBOSITY verbose\n$drop", on_error_stop => 0,
				timeout => 60);
			$stderr;
		}, "DROP EXTENSION, $name: answered at once");
	like($err, $expected, "DROP EXTENSION, $name: refused");
	my $next = enqueue('note');
	is_completed($next, "DROP EXTENSION, $name: workers go on");
	$gate->quit;
	is_completed($gated, "DROP EXTENSION, $name: so does what was running");
	is($node->safe_psql('app',
		"SELECT last_error IS NULL, last_sqlstate IS NULL, (SELECT count(*) FROM ledger WHERE task = id) FROM "
			. "jobqueue.tasks WHERE id = $gated"), 't|t|1',
		"DROP EXTENSION, $name: it was charged nothing, and has one effect");
	# An interruption makes attempts and max_attempts one higher each; who has not the right interrupts nobody.
	is($node->safe_psql('app', "SELECT max_attempts - attempts FROM jobqueue.tasks WHERE id = $gated"), 0,
		"DROP EXTENSION, $name: no attempt fewer than before");
	is($node->safe_psql('app', "SELECT attempts FROM jobqueue.tasks WHERE id = $gated"), 1,
		"DROP EXTENSION, $name: it was not even interrupted")
	  if $drop =~ /stranger/;
	is(unexpected_in_log($node, undef, $since), '', "DROP EXTENSION, $name: nothing unexpected in the log");
}

# --------------------------------------------------------------------------------------------------------------------
# Created, dropped, created, in one session: nothing that it has in memory may be of the one before

$node->safe_psql('postgres', 'CREATE DATABASE again');
my $session = $node->background_psql('again', on_error_stop => 0);
$session->query_safe('CREATE FUNCTION triple(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '
	. 'to_jsonb(payload::int * 3) $$; SET client_min_messages = error');
for my $round (1 .. 3) {
	my $create = $round < 3 ? 'CREATE EXTENSION jobqueue'
		: 'BEGIN; DROP EXTENSION jobqueue; CREATE EXTENSION jobqueue; COMMIT';
	is($session->query($create), '', "round $round: created");
	$session->query('CREATE EXTENSION jobqueue');
	like($session->{stderr}, qr/ERROR:  extension "jobqueue" already exists/, "round $round: not twice");
	$session->{stderr} = '';
	$session->query_safe('CREATE EXTENSION IF NOT EXISTS jobqueue');
	is($session->query_safe('SELECT jobqueue.version()'), $version, "round $round: version()");
	$session->query_safe(q{SELECT jobqueue.register_handler('triple', 'triple(jsonb)')});
	my $task = $session->query_safe(q{SELECT jobqueue.enqueue('triple', '14')});
	is($task, 1, "round $round: ids begin anew");
	is($session->query_safe("SELECT status, result, attempts FROM jobqueue.wait_for($task, '20 s')"), 'completed|42|1',
		"round $round: runs");
	$session->query_safe(q{INSERT INTO jobqueue.tasks (type) VALUES ('by hand')});
	my ($mine, $attempt) = split /\|/, $session->query_safe('SELECT id, attempts FROM jobqueue.claim()');
	is($session->query_safe("SELECT jobqueue.complete($mine, $attempt)"), 't', "round $round: claimed and completed");
	is($session->query_safe('SELECT jobqueue.current_task() IS NULL'), 't', "round $round: no current task");
	is($session->query_safe('SELECT string_agg(status, $$ $$) FROM jobqueue.tasks'), 'completed completed',
		"round $round: history");
	if ($round != 2) {
		is_prompt(sub { $session->query_safe('DROP EXTENSION jobqueue') }, "round $round: dropped");
		is($session->query_safe("SELECT to_regnamespace('jobqueue') IS NULL"), 't',
			"round $round: nothing is left, nor is the schema");
	}
}
wait_sql($node, 'postgres',
	"SELECT count(*) FROM pg_stat_activity WHERE datname = 'again' AND backend_type LIKE 'jobqueue%'", 0,
		'no process is left');
$session->quit;
is_completed(enqueue('note'), 'the other database is served as ever');

is(unexpected_in_log($node, qr/has version|allow_superuser_handlers/), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
