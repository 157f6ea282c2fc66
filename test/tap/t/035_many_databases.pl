# More databases than processes, or than slots in shared memory.
#
# - C1: twenty databases with schedules on the default eight processes: each has its turn, who has waited longest first;
#   a task in a 21st runs, beside a long one; who waits is named in the log, once
# - C8: copies that run nothing hold no slot; with more databases than slots all are served
# - C10: how many processes would be enough for all is said after the start
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

# A database to be copied: with a handler that notes its tasks.
sub create_pattern {
	my ($node) = @_;
	create_queue($node, 'pattern');
	$node->safe_psql('pattern', <<'SQL');
		CREATE TABLE ledger (type text, at timestamptz NOT NULL DEFAULT clock_timestamp());
		CREATE FUNCTION note(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.ledger (type) VALUES ((jobqueue.current_task()).type);
			IF payload ? 'wait' THEN
				PERFORM pg_advisory_xact_lock_shared(1);
			END IF;
		END $$;
		SELECT jobqueue.register_handler('note', 'note(jsonb)');
		SELECT jobqueue.register_handler('fired', 'note(jsonb)');
		SELECT jobqueue.schedule('each second', '* * * * * *', 'fired');
SQL
	$node->safe_psql('pattern', "SELECT jobqueue.pause_schedule('each second')");
}

# Copies of it, which are databases of their own if $sql adopts them.
sub copy {
	my ($node, $sql, @databases) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE pattern STRATEGY file_copy") for @databases;
	if ($sql) {
		$node->safe_psql($_, $sql) for @databases;
	}
}

sub completed {
	my ($node, $database, $type) = @_;
	return $node->safe_psql($database, "SELECT count(*) FROM ledger WHERE type = '$type'");
}

# --------------------------------------------------------------------------------------------------------------------
# C1

my $node = start_node('turns', max_worker_processes => 8, autovacuum => 'off', 'jobqueue.poll_interval' => '1h',
	fsync => 'off');
create_pattern($node);
my @databases = map { "app$_" } 1 .. 20;
my $offset = log_size($node);
copy($node, "SELECT jobqueue.adopt(); SELECT jobqueue.resume_schedule('each second')", @databases);
for my $round (1 .. 3) {
	my %before = map { $_ => completed($node, $_, 'fired') } @databases;
	my %left = map { $_ => 1 } @databases;
	my $begin = time;
	ok(wait_for(sub {
		for my $database (keys %left) {
			delete $left{$database} if completed($node, $database, 'fired') > $before{$database};
		}
		return !%left;
	}, 90), "C1: twenty databases on eight processes, round $round: each has its turn")
	  or diag 'without: ', join(' ', sort keys %left), "\n", processes($node);
	note sprintf '%d s', time - $begin;
}

# A task that takes long keeps a process, but not its scheduler's.
my $gate = $node->background_psql('app7');
$gate->query_safe('SELECT pg_advisory_lock(1)');
$node->safe_psql('app7', q(SELECT jobqueue.enqueue('note', '{"wait": 1}')));
copy($node, 'SELECT jobqueue.adopt()', 'late');
my $id = $node->safe_psql('late', "SELECT jobqueue.enqueue('note')");
wait_sql($node, 'late', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'C1: a task in a 21st database runs', 90);
$id = $node->safe_psql('late', "SELECT jobqueue.enqueue('note', delay => '1 s')");
wait_sql($node, 'late', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'C1: ... and a delayed one',
	90);
$gate->quit;
wait_sql($node, 'app7', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'note' AND status = 'completed'", 1,
	'C1: the long one is completed in the end', 60);
my %named;
$named{$_}++ for map { /in database "(\w+)"/ } log_matches($node, qr/no process for a (?:scheduler|worker)/, $offset);
is(join(' ', grep { $named{$_} > 1 } sort keys %named), '', 'C1: who has waited for long is named once');
cmp_ok(length(log_since($node, $offset)), '<', 50_000, 'C1: the log does not grow')
	or diag substr(log_since($node, $offset), -3000);
is(unexpected_in_log($node, qr/no process for|restored or copied/, $offset), '', 'C1: nothing unexpected in the log');
$node->safe_psql($_, 'SELECT jobqueue.unschedule(name) FROM jobqueue.schedules') for @databases;

# After a start it says how many processes would be enough for all.
$offset = log_size($node);
$node->restart;
ok(wait_for(
	sub { log_matches($node, qr/jobqueue serves \d+ databases, whose processes take turns: max_worker_processes is 8/,
		$offset) }, 90),
	'C10: what would be enough is said after the start');
$node->stop;

# --------------------------------------------------------------------------------------------------------------------
# C8

my $few = start_node('slots', 'jobqueue.max_databases' => 16, max_worker_processes => 8, autovacuum => 'off',
	'jobqueue.poll_interval' => '1h', fsync => 'off');
create_pattern($few);
copy($few, undef, map { "copy$_" } 1 .. 12);
my @own = map { "own$_" } 1 .. 10;
copy($few, 'SELECT jobqueue.adopt()', @own);
for my $round (1, 2) {
	if ($round == 2) {
		$few->restart;
		$few->safe_psql("copy$_", "SELECT jobqueue.enqueue('note')") for 1 .. 12;
	}
	my %id = map { $_ => $few->safe_psql($_, "SELECT jobqueue.enqueue('note', delay => '1 s')") } @own;
	wait_sql($few, $_, "SELECT status FROM jobqueue.tasks WHERE id = $id{$_}", 'completed',
		"C8: more databases than slots, round $round: $_ is served", 120)
	  for @own;
}
is(completed($few, "copy$_", 'note'), 0, "C8: copy$_ runs nothing") for 1, 12;
$few->safe_psql('copy5', 'SELECT jobqueue.adopt()');
wait_sql($few, 'copy5', "SELECT count(*) FROM ledger WHERE type = 'note'", 1, 'C8: a copy that is adopted is served',
	120);
my %reported;
$reported{$_}++ for map { /in database "(copy\d+)": it is a restored or copied/ } log_matches($few,
	qr/copied database/);
is(join(' ', grep { $reported{$_} > 2 } sort keys %reported), '', 'C8: a copy is reported once at each start');
$few->stop;
done_testing();
