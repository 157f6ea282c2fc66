# One crash is one crash: the task that takes its worker, or the whole server, down is found out and charged, and set
# aside after jobqueue.max_crashes; no other task is charged.
#
# - a worker killed with SIGKILL, ten times in a row, beside three tasks that have one attempt only
# - handlers that crash, panic, end their process in every way: each is charged, and in the end failed, with JQ005
# - one of them among 10,000 good tasks
# - what is nobody's fault: a client's backend killed, an immediate stop, the postmaster killed (with children that
#   linger, and ten times in a row under load), a copy of the data directory
# - restart_after_crash = off: the culprit is charged at the next start
# - jobqueue.max_crashes = 1
#
# A worker's claim is committed without waiting for the disk, so a crash may forget it: the rounds differ in that.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('charging', init => { allows_streaming => 1 }, restart_after_crash => 'on', autovacuum => 'off',
	shared_buffers => '8MB', checkpoint_timeout => '1h', full_page_writes => 'off', wal_log_hints => 'off',
	wal_writer_delay => '10s', wal_writer_flush_after => '1GB', 'jobqueue.max_workers' => 4,
		'jobqueue.poll_interval' => '1h');
create_queue($node, 'app');
create_ledger($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE TABLE open (gate int);
	-- Writes, says that it runs, and waits until its gate is open. What is committed while it waits, it sees.
	CREATE FUNCTION gated(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.ledger (task) VALUES ((jobqueue.current_task()).id);
		PERFORM pg_advisory_xact_lock_shared((jobqueue.current_task()).id);
		WHILE NOT EXISTS (SELECT FROM public.open WHERE gate = (payload->>'gate')::int) LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
	END $$;
	SELECT jobqueue.register_handler('gated', 'gated(jsonb)');
	-- With this one, an attempt that is charged is the last one.
	SELECT jobqueue.register_handler('gated_once', 'gated(jsonb)', max_attempts => 1);
	SELECT jobqueue.register_handler('once', 'note(jsonb)', max_attempts => 1);

	CREATE FUNCTION bad_crash(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_panic(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_leave(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_vanish(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_drop(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_spin(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	SELECT jobqueue.register_handler(bad, ('bad_' || bad || '(jsonb)')::regprocedure, queue => 'bad')
	FROM unnest('{crash,panic,leave,vanish,drop,spin}'::text[]) bad;
SQL

my $ready = qr/database system is ready to accept connections/;

sub wait_ready {
	my ($offset, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_for(sub { log_matches($node, $ready, $offset) }), "$what: the server comes back") or die 'it does not';
	poll_sql($node, 'app', 'SELECT true');
}

my $gates = 0;

# Tasks of these types, behind a gate of their own. Returns the gate, the ids, and the processes that run them.
sub run_gated {
	my (@types) = @_;
	my $gate = ++$gates;
	my @ids = split /\n/, $node->safe_psql('app',
		"SELECT jobqueue.enqueue(type, '{\"gate\": $gate}') FROM unnest('{" . join(',', @types) . "}'::text[]) type");
	return ($gate, \@ids, wait_running(@ids));
}

# Waits until their handlers are behind the gate. Returns the processes.
sub wait_running {
	my (@ids) = @_;
	my $pids = wait_for(sub {
		my @running = split /\n/, $node->safe_psql('app', "SELECT objid, pid FROM pg_locks WHERE locktype = 'advisory'
			AND database = (SELECT oid FROM pg_database WHERE datname = 'app') AND objid IN (" . join(',', @ids) . ')');
		return @running == @ids ? { map { split /\|/ } @running } : undef;
	});
	die 'not running: ' . $node->safe_psql('app', 'SELECT t FROM jobqueue.tasks_live t') unless $pids;
	return [ @{$pids}{@ids} ];
}

# What has been charged: "task crashes failed-attempts", for those who are charged anything.
sub charged {
	my (@ids) = @_;
	return $node->safe_psql('app',
		"SELECT string_agg(concat_ws(' ', id, crashes, failures), ', ' ORDER BY id) FROM jobqueue.tasks
		WHERE (crashes > 0 OR failures IS NOT NULL OR last_error IS NOT NULL)"
		. (@ids ? ' AND id IN (' . join(',', @ids) . ')' : ''));
}

# All are completed, with one effect each, though each had one attempt only.
sub are_done_uncharged {
	my ($what, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = join ',', @ids;
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'completed'",
		scalar @ids, "$what: completed");
	is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task IN ($list)"), scalar @ids,
		"$what: each with one effect");
	is(charged(@ids), '', "$what: charged nothing");
}

# Also returns false for a process that is dead but has not been reaped.
sub is_alive {
	my ($pid) = @_;
	my ($state) = JobQueueTest::proc_stat($pid);
	return $state && $state ne 'Z';
}

sub open_gate {
	my ($gate) = @_;
	$node->safe_psql('app', "INSERT INTO open VALUES ($gate)");
}

sub flush {
	$node->safe_psql('app', 'CREATE TEMP TABLE t (); SELECT pg_switch_wal()');
}

sub set_max_workers {
	my ($count) = @_;
	$node->append_conf('postgresql.conf', "jobqueue.max_workers = $count");
	$node->reload if $node->{_pid};
}

# --------------------------------------------------------------------------------------------------------------------
# A worker killed, ten times

my @delays;
my %remembered = (t => 0, f => 0);
for my $round (1 .. 10) {
	my ($gate, $ids, $pids) = run_gated(qw(gated gated_once gated_once gated_once));
	my ($victim, @others) = @$ids;
	flush() if $round % 2;
	my $offset = log_size($node);
	kill('KILL', $pids->[0]) == 1 or die 'it is gone';
	wait_ready($offset, "killed worker $round");
	my ($line) = log_matches($node, $ready, $offset);
	my ($at) = $line =~ /^(\S+ \S+ \S+) /;
	wait_running($victim);
	is($node->safe_psql('app',
		"SELECT status, attempts, max_attempts, crashes, last_sqlstate, jsonb_array_length(failures),
		failures->0->>'sqlstate', failures->0->>'attempt' FROM jobqueue.tasks WHERE id = $victim"),
		'processing|2|20|1|JQ005|1|JQ005|1', 'its task is charged an attempt and a crash, and runs again');
	push @delays,
		$node->safe_psql('app',
			"SELECT extract(epoch FROM processed_at - '$at') FROM jobqueue.tasks WHERE id = $victim");
	open_gate($gate);
	are_done_uncharged('the three beside it', @others);
	is($node->safe_psql('app', 'SELECT bool_and(max_attempts = attempts) FROM jobqueue.tasks WHERE id IN ('
		. join(',', @others) . ')'),
		't', '... what it cost them they have been given back');
	$remembered{$_}++ for split /\n/, $node->safe_psql('app',
		"SELECT attempts > 1 FROM jobqueue.tasks WHERE id = $others[0]");
	wait_sql($node, 'app', "SELECT status, attempts, crashes FROM jobqueue.tasks WHERE id = $victim", 'completed|2|1',
		'it is completed, too');
}
note sprintf 'from "ready to accept connections" to the next attempt: %s s', join ', ',
	map { sprintf '%.2f', $_ } @delays;
ok($remembered{t} && $remembered{f}, 'some crashes forgot the claims, some did not')
  or diag explain \%remembered;

# --------------------------------------------------------------------------------------------------------------------
# A handler that crashes among 10,000 good tasks

my $offset = log_size($node);
my ($first, $bad, $last) = split /\n/, $node->safe_psql('app', <<'SQL');
	BEGIN;
	SELECT min(id) FROM (SELECT jobqueue.enqueue_many('once', array_fill('{}'::jsonb, ARRAY[5000])) AS id) s;
	SELECT jobqueue.enqueue('crash', queue => 'default');
	SELECT max(id) FROM (SELECT jobqueue.enqueue_many('once', array_fill('{}'::jsonb, ARRAY[5000])) AS id) s;
	COMMIT;
SQL
ok(wait_for(sub { log_matches($node, $ready, $offset) }), 'the server restarts because of a bad handler');
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks_live', 0, 'all tasks come to an end');
cmp_ok(scalar(log_matches($node, $ready, $offset)), '<=', 3, 'after at most three restarts');
is($node->safe_psql('app',
	"SELECT status, crashes, attempts, last_sqlstate, last_error ~ 'crashed the server.*after 3 crashes "
		. ".*jobqueue.max_crashes',
	jsonb_array_length(failures), failures @? '\$[*] ? (\@.sqlstate != \"JQ005\")' FROM jobqueue.tasks WHERE id = "
		. "$bad"),
	'failed|3|3|JQ005|t|3|f', 'the bad task has failed, and says why');
is($node->safe_psql('app',
	"SELECT status, count(*), count(failures), sum(crashes), bool_and(attempts = max_attempts) FROM jobqueue.tasks
	WHERE id BETWEEN $first AND $last AND id <> $bad GROUP BY status"), 'completed|10000|0|0|t',
	'the 10,000 others are completed, charged nothing');
is($node->safe_psql('app', "SELECT count(*) FROM ledger WHERE task BETWEEN $first AND $last"), 10000, '... once each');
is(scalar(
	log_matches($node,
		qr/task $bad of type "crash" was running in the worker process whose end made the server restart/, $offset)), 3,
			'each crash is in the log, with its task');

# --------------------------------------------------------------------------------------------------------------------
# Other ways to end a process

# Beside each: a task that may not be charged.
my ($gate, $beside) = run_gated('gated_once');
for my $way ([ leave => '{}', 0 ], [ vanish => '{"code": 0}', 0 ], [ vanish => '{"code": 1}', 0 ],
	[ vanish => '{"code": 3}', 0 ],
	[ drop => '{"code": 0}', 3 ], [ drop => '{"code": 1}', 3 ], [ drop => '{"code": 3}', 3 ], [ panic => '{}', 3 ]) {
	my ($type, $payload, $restarts) = @$way;
	my $what = "$type $payload";
	# A role whose workers only ever crash waits for its next one, ever longer.
	my $good = $node->safe_psql('app', "SELECT jobqueue.enqueue('once')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $good", 'completed',
		"$what: a good task before it");
	$offset = log_size($node);
	# It may take the server down before the answer is there.
	$node->psql('app', "SELECT jobqueue.enqueue('$type', '$payload')");
	$bad = wait_for(
		sub { ($node->psql('app', "SELECT max(id) FROM jobqueue.tasks WHERE type = '$type' AND id > $good"))[1] });
	my $done = do {
		local $PostgreSQL::Test::Utils::timeout_default = 60;
		poll_sql($node, 'app', "SELECT status = 'failed' FROM jobqueue.tasks WHERE id = $bad");
	};
	if (!$done) { # go on without it
		fail("$what: the server restarts again and again");
		set_max_workers(0);
		poll_sql($node, 'app', "SELECT jobqueue.cancel($bad)");
		set_max_workers(4);
		next;
	}
	wait_sql($node, 'app',
		"SELECT status, crashes, attempts, last_sqlstate, last_error ~ 'after 3 crashes' FROM jobqueue.tasks WHERE "
			. "id = $bad",
		'failed|3|3|JQ005|t', "$what: failed after three crashes");
	is(scalar(log_matches($node, $ready, $offset)), $restarts, "$what: $restarts restarts of the server");
}
wait_running(@$beside);
open_gate($gate);
are_done_uncharged('the one beside them', @$beside);

# One crash is enough, if told so.
$node->append_conf('postgresql.conf', 'jobqueue.max_crashes = 1');
$node->reload;
$offset = log_size($node);
($gate, $beside) = run_gated('gated_once');
$bad = $node->safe_psql('app', "SELECT jobqueue.enqueue('crash')");
wait_ready($offset, 'max_crashes = 1');
wait_sql($node, 'app', "SELECT status, crashes, attempts, last_sqlstate FROM jobqueue.tasks WHERE id = $bad",
	'failed|1|1|JQ005',
	'max_crashes = 1: failed at the first crash');
open_gate($gate);
are_done_uncharged('max_crashes = 1: the one beside it', @$beside);
is(scalar(log_matches($node, $ready, $offset)), 1, 'max_crashes = 1: one restart');
$node->append_conf('postgresql.conf', 'jobqueue.max_crashes = 3');
$node->reload;

# --------------------------------------------------------------------------------------------------------------------
# Nobody's fault

my $session = $node->background_psql('app', on_error_stop => 0);
my $client = $session->query_safe('SELECT pg_backend_pid()');
($gate, $beside) = run_gated(('gated_once') x 4);
$offset = log_size($node);
kill('KILL', $client);
wait_ready($offset, 'a client\'s backend killed');
eval { $session->quit };
open_gate($gate);
are_done_uncharged('a client\'s backend killed', @$beside);

for my $kind ('scheduler', 'launcher') {
	($gate, $beside) = run_gated(('gated_once') x 4);
	flush();
	$offset = log_size($node);
	kill('KILL', (pids($node, $kind))[0]);
	wait_ready($offset, "the $kind killed");
	open_gate($gate);
	are_done_uncharged("the $kind killed", @$beside);
}

($gate, $beside) = run_gated(('gated_once') x 4);
$node->stop('immediate');
$node->start;
wait_running(@$beside);
$node->stop('immediate');
$node->start;
open_gate($gate);
are_done_uncharged('immediate stop, twice', @$beside);

# Kills the postmaster alone. Its children notice that and end, except for so many. Returns those that have not ended.
sub kill_postmaster {
	my ($deaf) = @_;
	my ($postmaster, @children) = ($node->{_pid}, JobQueueTest::children($node, qr/./));
	$node->kill9;
	wait_for(sub { !kill 0, $postmaster }) or die 'it is still there';
	my @lingering;
	wait_for(sub { (@lingering = grep { is_alive($_) } @children) <= $deaf });
	return @lingering;
}

($gate, $beside) = run_gated(('gated_once') x 3);
my $spin = $node->safe_psql('app', q[SELECT jobqueue.enqueue('spin', '{"seconds": 3600}', max_attempts => 1)]);
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE task_id = $spin", 1,
	'a handler that listens to nobody');
my @lingering = kill_postmaster(1);
is(scalar(@lingering), 1, 'it survives the postmaster');
is($node->start(fail_ok => 1), 0, 'the server does not start beside it');
kill 'KILL', @lingering;
wait_for(sub { !grep { is_alive($_) } @lingering });
set_max_workers(0);
$node->start;
wait_sql($node, 'app', "SELECT string_agg(status, ' ') FROM jobqueue.tasks WHERE id IN (" . join(',', @$beside, $spin)
	. ')',
	'pending pending pending pending', 'the postmaster killed: all wait again');
is(charged(@$beside, $spin), '', '... charged nothing, the one that had to be killed by hand neither');
$node->safe_psql('app', "UPDATE jobqueue.tasks SET payload = '{\"seconds\": 0}' WHERE id = $spin");
open_gate($gate);
set_max_workers(4);
wait_sql($node, 'app', "SELECT status, crashes FROM jobqueue.tasks WHERE id = $spin", 'completed|0',
	'... it runs again');
are_done_uncharged('the postmaster killed', @$beside);

# Ten times, while tasks are being enqueued and run.
my $before = $node->safe_psql('app', 'SELECT count(*) FROM ledger');
my $tasks = 0;
my $enqueue = q[SELECT count(jobqueue.enqueue('once', '{"sleep": 0.003}')) FROM generate_series(1, 300)];
for my $round (1 .. 10) {
	my $some = $node->safe_psql('app', 'SELECT count(*) FROM ledger') + 10 * $round;
	$tasks += $node->safe_psql('app', $enqueue);
	poll_sql($node, 'app', "SELECT count(*) >= $some FROM ledger");
	$tasks += $node->safe_psql('app', $enqueue) if $round % 2;
	is(scalar(kill_postmaster(0)), 0, "the postmaster killed under load, $round");
	$node->start;
}
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks_live', 0, 'all tasks come to an end');
is($node->safe_psql('app', "SELECT count(*) - $before, count(*) - count(DISTINCT task) FROM ledger"), "$tasks|0",
	'every effect is there once');
is($node->safe_psql('app',
	"SELECT count(*) FROM jobqueue.tasks WHERE type = 'once' AND (status <> 'completed' OR crashes > 0
	OR failures IS NOT NULL OR max_attempts <> attempts)"), 0, 'no task was charged');
is($node->safe_psql('app', 'SELECT count(*) FROM ledger l FULL JOIN jobqueue.tasks t ON t.id = l.task
	WHERE t.id IS NULL OR (l.task IS NULL) <> (t.queue = \'bad\' OR t.type = \'crash\')'), 0,
	'each task has its effect, each effect its task');

# --------------------------------------------------------------------------------------------------------------------
# Copies of the data directory

($gate, $beside) = run_gated(('gated_once') x 4);
flush();
$node->backup('copy');
ok(!-e $node->backup_dir . '/copy/pg_stat_tmp/jobqueue_flight_recorder', 'a base backup has no flight recorder');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'copy');
$copy->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$copy->start;
my $list = join ',', @$beside;
my $row =
	"SELECT count(*), status, crashes, failures IS NULL, max_attempts - attempts FROM jobqueue.tasks WHERE id IN "
		. "($list) GROUP BY 2, 3, 4, 5";
wait_sql($copy, 'app', $row, '4|pending|0|t|1', 'a base backup taken while tasks run: they wait, charged nothing');
$copy->stop;

# restart_after_crash = off. A copy of what the crash left charges nobody: its flight recorder is not its own.
$node->append_conf('postgresql.conf', 'restart_after_crash = off');
$node->reload;
my $pids = wait_running(@$beside);
my $postmaster = $node->{_pid};
kill('KILL', $pids->[0]);
ok(wait_for(sub { !kill 0, $postmaster }), 'restart_after_crash = off: the server ends');
$node->{_pid} = undef;
$node->backup_fs_cold('cold');
set_max_workers(0);
$node->start;
my $culprit = shift @$beside;
wait_sql($node, 'app', "SELECT status, crashes, last_sqlstate FROM jobqueue.tasks WHERE id = $culprit",
	'failed|1|JQ005',
	'the culprit is charged at the next start');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($list) AND status = 'processing'", 0,
	'nothing is held');
is(charged(@$beside), '', 'the others are charged nothing');
set_max_workers(4);
open_gate($gate);
are_done_uncharged('restart_after_crash = off: the others', @$beside);

my $cold = PostgreSQL::Test::Cluster->new('cold');
$cold->init_from_backup($node, 'cold');
ok(-e $cold->data_dir . '/pg_stat_tmp/jobqueue_flight_recorder', 'a cold copy has the flight recorder of the original');
$cold->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$cold->start;
wait_sql($cold, 'app', $row, '4|pending|0|t|1', '... which charges nobody');
$cold->stop;

# A server that was stopped in good order, and then started: what the file says is of no use any more.
$node->restart;
is($node->safe_psql('app', "SELECT crashes FROM jobqueue.tasks WHERE id = $culprit"), 1, 'a crash is charged once');
is(join("\n", log_matches($node, qr/TRAP:|stuck spinlock|could not open its flight recorder/)), '',
	'nothing unexpected in the log');
$node->stop;
done_testing();
