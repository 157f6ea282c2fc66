# With a synchronous standby nothing that was acknowledged is lost at a failover, and nothing of it runs again.
#
# - wait_for() returns only when the end of the task is as safe as a commit: as long as the standby does not answer it
#   waits, until its timeout, and can be interrupted
# - under load (enqueuers, handlers, callers of wait_for(), outside workers) the primary is killed, and the standby
#   promoted: every acknowledged task is there, each effect once; what was acknowledged as completed stays completed;
# and
#   work goes on within seconds, without a command
#
# What clients were told is what psql has printed: it does so when the server has answered.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', autovacuum => 'off', init => { allows_streaming => 1 }, shared_buffers => '16MB',
	synchronous_commit => 'on', wal_receiver_timeout => 0, wal_sender_timeout => 0, 'jobqueue.max_workers' => 2);
$primary->start;
create_queue($primary, 'app');
create_ledger($primary, 'app');
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
$primary->reload;
wait_sql($primary, 'postgres', 'SELECT sync_state FROM pg_stat_replication', 'sync', 'there is a synchronous standby');

# --------------------------------------------------------------------------------------------------------------------
# wait_for

my $id = $primary->safe_psql('app', "SELECT jobqueue.enqueue('note')");
is($primary->safe_psql('app', "SELECT status FROM jobqueue.wait_for($id, '60 s')"), 'completed',
	'wait_for with a standby that answers');

my $receiver = $standby->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
is(kill('STOP', $receiver), 1, 'the standby does not answer');
$id = $primary->safe_psql('app', "SET synchronous_commit = local; SELECT jobqueue.enqueue('note')");
wait_sql($primary, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'handlers run meanwhile');
is($primary->safe_psql('app', "SELECT w IS NULL FROM jobqueue.wait_for($id, '1 s') w"), 't',
	'wait_for waits until its timeout');
my ($status, $out, $error) = $primary->psql('app', "SET statement_timeout = '0.5 s'; SELECT jobqueue.wait_for($id)");
like($error, qr/canceling statement due to statement timeout/, '... can be interrupted');

# A session that has been told to read its settings again cannot know whether there still is such a standby.
my $asker = $primary->background_psql('app', on_error_stop => 0);
my $pid = $asker->query_safe('SELECT pg_backend_pid()');
my $active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND state = 'active'";
$asker->query_until(qr/asked/, "\\echo asked\nSELECT 'answer', w IS NULL FROM jobqueue.wait_for($id, '3 s') w;\n");
wait_sql($primary, 'postgres', $active, 1, '... also in a session');
$primary->reload;
my $returned = wait_sql($primary, 'postgres', $active, 0, '... that has heard of other settings');
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") unless $returned;
$asker->{run}->pump until $asker->{stdout} =~ /answer/ || !$asker->{run}->pumpable;
like($asker->{stdout}, qr/answer\|t/, '... with no task as the answer');
eval { $asker->quit };
$asker = $primary->background_psql('app', on_error_stop => 0);
$pid = $asker->query_safe('SELECT pg_backend_pid()');
$active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND state = 'active'";
$asker->query_until(qr/asked/,
	"\\echo asked\nSELECT 'answer', w IS NULL FROM jobqueue.wait_for($id) w;\n\\echo over\n");
wait_sql($primary, 'postgres', $active, 1, '... and asked again');
$primary->reload;
$primary->safe_psql('postgres', "SELECT pg_sleep(0.2), pg_cancel_backend($pid)");
unlike($asker->query_until(qr/over/, ''), qr/answer/, '... a cancelled wait is no answer');
like($asker->{stderr}, qr/canceling statement due to user request/, '... but an error');
eval { $asker->quit };

my $waiter = $primary->background_psql('app');
$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT status FROM jobqueue.wait_for($id);\n\\echo told\n");
my $by_waiter =
	"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT status FROM jobqueue.wait_for%' AND state = "
		. "'active'";
wait_sql($primary, 'postgres', $by_waiter, 1, '... waits');
my $other = $primary->safe_psql('app', "SELECT w IS NULL FROM jobqueue.wait_for($id, '2 s') w");
is($primary->safe_psql('postgres', $by_waiter), 1, '... for as long as it takes');
is($other, 't', '... whoever asks');
is(kill('CONT', $receiver), 1, 'the standby answers again');
$waiter->query_until(qr/told/, '');
pass('... and wait_for returns');
$waiter->quit;

# --------------------------------------------------------------------------------------------------------------------
# Failover under load

$primary->append_conf('postgresql.conf', 'jobqueue.max_workers = 4');
$primary->reload;

# Runs statements again and again until the server is gone. What is printed counts.
my @clients;
my $dir = PostgreSQL::Test::Utils::tempdir;

sub run_client {
	my ($statements) = @_;
	my %client = (out => '', err => '');
	my $file = "$dir/" . @clients . '.sql';
	PostgreSQL::Test::Utils::append_to_file($file, $statements x 20000);
	$client{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('app'), '-f',
		$file ], '<', \undef,
		'>', \$client{out}, '2>', \$client{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	push @clients, \%client;
}

sub acknowledged {
	my ($letter) = @_;
	return map { [ split /\|/ ] } grep { /^\Q$letter\E\|.*\n/ } map { split /(?<=\n)/, $_->{out} } @clients;
}

$primary->safe_psql('app',
	"SELECT count(jobqueue.enqueue('outside', queue => 'outside')) FROM generate_series(1, 300)");
run_client("SELECT 'enqueued', jobqueue.enqueue('note');\n") for 1 .. 2;
run_client(<<'SQL') for 1 .. 2;
SELECT jobqueue.enqueue('note') AS id \gset
SELECT 'waited', w.id, w.status, w.attempts, l.at FROM jobqueue.wait_for(:id) w JOIN ledger l ON l.task = w.id;
SQL
run_client("SELECT 'outside', jobqueue.enqueue('outside', queue => 'outside');\n");
# An effect of its own and complete() in one transaction: that is exactly once, too.
run_client(<<'SQL') for 1 .. 2;
SELECT coalesce(max(id), 0) AS id, coalesce(max(attempts), 0) AS attempt
	FROM jobqueue.claim('outside', lease => '3 s') \gset
WITH done AS (INSERT INTO ledger (task) SELECT :id WHERE :id > 0 AND jobqueue.complete(:id, :attempt) RETURNING task)
	SELECT 'done', task, :attempt FROM done;
SQL

my %least = (enqueued => 200, waited => 100, outside => 100, done => 80);
ok(wait_for(sub {
	$_->{run}->pump_nb for @clients;
	!grep { acknowledged($_) < $least{$_} } keys %least;
}), 'under load') or diag explain [ map { [ substr($_->{out}, -200), $_->{err} ] } @clients ];

my @children = JobQueueTest::children($primary, qr/./);
$primary->kill9;
$_->{run}->finish for @clients;
is(join(' ', grep { $_->{err} !~ /server closed the connection|connection to server was lost/ } @clients), '',
	'every client has noticed');
ok(wait_for(sub { !grep { ((JobQueueTest::proc_stat($_))[0] // 'Z') ne 'Z' } @children }), 'the primary is gone');
my %told = map { ($_ => [ acknowledged($_) ]) } keys %least;
note join ', ', map { "$_: " . @{ $told{$_} } } sort keys %told;

my $offset = log_size($standby);
$standby->promote;
my $ready = $standby->safe_psql('postgres', 'SELECT clock_timestamp()');

# What was acknowledged, in a table of its own.
$standby->safe_psql('app', 'CREATE TABLE told (what text, task bigint, status text, attempts int, at timestamptz);'
	  . "COPY told FROM STDIN (DELIMITER '|', NULL '');\n"
	  . join('', map { my $what = $_; map { chomp(my @row = @$_);
	  join('|', $what eq 'done' ? ('done', $row[1], 'completed', $row[2], '') : (@row, ('') x (5 - @row))) . "\n" } @{
	  	$told{$what} } } sort keys %told)
	  . "\\.\n");
is($standby->safe_psql('app',
	'SELECT count(*) FROM told t WHERE NOT EXISTS (SELECT FROM jobqueue.tasks WHERE id = t.task)'), 0,
	'every task that was acknowledged is there');
wait_sql($standby, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = 'note'", 0,
	'work goes on without a command');

# The tasks of outside workers: claims that were not ended come back when their lease expires.
$standby->safe_psql('app', 'CREATE TABLE again AS SELECT id FROM jobqueue.tasks LIMIT 0');
wait_sql($standby, 'app', <<'SQL', 0, 'so do outside workers');
	WITH claimed AS (SELECT id, attempts FROM jobqueue.claim('outside', 1000)),
		noted AS (INSERT INTO again SELECT id FROM claimed),
		done AS (INSERT INTO ledger (task) SELECT id FROM claimed WHERE jobqueue.complete(id, attempts))
	SELECT (SELECT count(*) FROM claimed) + (SELECT count(*) FROM jobqueue.tasks_live);
SQL

is($standby->safe_psql('app', 'SELECT count(*) FROM told JOIN again ON id = task WHERE what = \'done\''), 0,
	'what was acknowledged by complete() was not claimed again');
is($standby->safe_psql('app', <<'SQL'), '0|0', 'what was acknowledged by complete() or wait_for() has not run again');
	SELECT count(*) FILTER (WHERE t.status <> told.status OR t.attempts <> told.attempts),
		count(*) FILTER (WHERE l.at <> told.at)
	FROM told JOIN jobqueue.tasks t ON t.id = told.task JOIN ledger l ON l.task = told.task WHERE what
	IN ('waited', 'done')
SQL
is($standby->safe_psql('app', <<'SQL'), '', 'every effect is there once, and every task is completed');
	SELECT t.id, t.status, t.last_error, l.task FROM jobqueue.tasks t FULL JOIN ledger l ON l.task = t.id
	WHERE t.id IS NULL OR l.task IS NULL OR t.status <> 'completed' OR t.crashes > 0
		OR t.failures IS NOT NULL AND t.type = 'note'
	LIMIT 10
SQL
is($standby->safe_psql('app', "SELECT count(*) - count(DISTINCT id) FROM jobqueue.tasks"), 0, 'no task is there twice');
$id = $standby->safe_psql('app', "SELECT jobqueue.enqueue('note')");
wait_sql($standby, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'new tasks run');
my $first = $standby->safe_psql('app',
	"SELECT coalesce(round(extract(epoch FROM min(at) - '$ready'), 2), 0) FROM ledger WHERE at > '$ready'");
note "the first task began after $first s";
is(unexpected_in_log($standby, undef, $offset), '', 'nothing unexpected in the log');
$standby->stop;
done_testing();
