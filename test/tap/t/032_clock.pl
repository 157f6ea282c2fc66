# Somebody sets the clock (B6), by a day and by years, back and forward, while the server runs and while it does not.
#
# After each step: schedules fire by the new time, delayed tasks and leases end, rates go on, NOTIFY is sent, what
# nobody announced is found by the poll, wait_for() ends, and the history turns. The server's clock is in a library of
# the tests, test/modules/shifted_clock.cpp.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('clock', autovacuum => 'off', 'jobqueue.poll_interval' => '1s',
	'jobqueue.completed_retention' => '7min');
my $file = PostgreSQL::Test::Utils::tempdir . '/shift';
my $library = $node->config_data('--pkglibdir') . '/shifted_clock.so';

# By how many seconds the server's clock is ahead of ours.
sub set_clock {
	my ($seconds) = @_;
	# in place: the servers have it in their memory
	open my $out, (-e $file ? '+<' : '>'), $file or die $!;
	syswrite $out, pack('q', $seconds * 1_000_000);
	close $out;
}

sub start {
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{SHIFTED_CLOCK} = $file;
	$node->start;
}

sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', $sql);
}

set_clock(0);
start();
create_queue($node, 'app');
sql(<<'SQL');
	CREATE TABLE ran (type text NOT NULL, scheduled_for timestamptz, at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE FUNCTION note(task jobqueue.tasks) RETURNS void LANGUAGE sql AS $$
		INSERT INTO ran SELECT task.type, (task.metadata->>'scheduled_for')::timestamptz
	$$;
	SELECT jobqueue.register_handler('tick', 'note(jobqueue.tasks)');
	SELECT jobqueue.register_handler('often', 'note(jobqueue.tasks)');
	SELECT jobqueue.register_handler('note', 'note(jobqueue.tasks)');
	SELECT jobqueue.register_handler('rated', 'note(jobqueue.tasks)', rate_limit => 10, rate_burst => 1);
	SELECT jobqueue.schedule('tick', '* * * * * *', 'tick');
	SELECT jobqueue.schedule('often', '1 second', 'often');
	SELECT jobqueue.schedule('yearly', '@yearly', 'note');
SQL

my $listener;
# All goes on, by the time that it is now.
sub goes_on {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $offset = log_size($node);
	if (!$listener) {
		$listener = $node->background_psql('app');
		$listener->query_safe('LISTEN task_queue');
	}
	$listener->query_safe('SELECT 1');
	my $queue = 'q' . int(rand 1e9);
	my ($now) = sql('SELECT now()');
	sql('DELETE FROM ran');
	my $delayed = sql("SELECT jobqueue.enqueue('note', delay => '1 s')");
	sql("SELECT jobqueue.enqueue('rated') FROM generate_series(1, 5)");
	my ($claimed) = sql("SELECT jobqueue.enqueue('outside', queue => '$queue')");
	is(sql("SELECT count(*) FROM jobqueue.claim('$queue', lease => '1 s')"), 1, "$what: claimed");
	my $heard = '';
	ok(wait_for(sub { $heard .= $listener->query_safe('SELECT 1'); $heard =~ /payload "$queue"/ }),
		"$what: NOTIFY is sent");
	wait_sql($node, 'app',
		"SELECT count(*) >= 2 FROM ran WHERE type = 'tick' AND scheduled_for BETWEEN '$now'::timestamptz - interval "
			. "'1 min' AND clock_timestamp()", 't',
		"$what: a cron expression fires by the new time");
	wait_sql($node, 'app',
		"SELECT count(*) >= 2 FROM ran WHERE type = 'often' AND scheduled_for BETWEEN '$now'::timestamptz - interval "
			. "'1 min' AND clock_timestamp()", 't',
		"$what: an interval fires by the new time");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $delayed", 'completed',
		"$what: a delayed task runs");
	wait_sql($node, 'app', "SELECT count(*) FROM ran WHERE type = 'rated'", 5, "$what: a rate goes on");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $claimed", 'pending', "$what: a lease ends");
	is(sql("SELECT jobqueue.wait_for($claimed, '200 ms') IS NULL"), 't', "$what: wait_for() ends");
	# what is not announced
	my ($hidden) =
		sql("SET session_replication_role = replica; INSERT INTO jobqueue.tasks_live (type) VALUES ('note') "
			. "RETURNING id");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $hidden", 'completed',
		"$what: the poll goes on");
	is(sql("SELECT count(*) FROM jobqueue.schedules WHERE name = 'yearly' AND next_run_at > now() + interval '367 "
		. "days'"), 0, "$what: a yearly schedule waits for a year at most");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.history_ring WHERE filled_since > now() + interval '1 min'",
		0, "$what: the history is filled since a time that has been");
	is(unexpected_in_log($node, undef, $offset), '', "$what: nothing unexpected in the log");
	cmp_ok(length(log_since($node, $offset)), '<', 5000, "$what: nor much of it");
}

# The history turns once more.
sub turns {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($ring) = sql("UPDATE jobqueue.history_ring SET filled_since = now() - interval '61 s' RETURNING slot");
	wait_sql($node, 'app', "SELECT slot <> $ring FROM jobqueue.history_ring", 't', "$what: the history turns");
}

my ($day, $year) = (24 * 3600, 365 * 24 * 3600);
goes_on('before');
set_clock(-$day);
goes_on('B6: set back by a day');
set_clock(12 * $year);
goes_on('B6: set forward by twelve years');
turns('B6: set forward by twelve years');
set_clock(0);
goes_on('B6: set back by twelve years');
turns('B6: set back by twelve years');

# A small step back: no time fires twice.
my ($last) = sql("SELECT max(scheduled_for) FROM ran WHERE type = 'tick'");
set_clock(-8);
wait_sql($node, 'app', "SELECT count(*) > 0 FROM ran WHERE type = 'tick' AND scheduled_for > '$last'", 't',
	'B6: set back by seconds');
is(sql("SELECT count(*) FROM (SELECT FROM ran WHERE type = 'tick' GROUP BY scheduled_for HAVING count(*) > 1) twice"),
	0, 'B6: ... no time fires twice');

# Set while the server is down.
set_clock(12 * $year);
wait_sql($node, 'app', "SELECT count(*) >= 2 FROM ran WHERE scheduled_for > now() - interval '1 min'", 't',
	'years ahead once more');
$listener->quit;
undef $listener;
$node->stop;
set_clock(0);
start();
goes_on('B6: started again with a clock that was set back');
turns('B6: started again with a clock that was set back');
$listener->quit;

$node->stop;
done_testing();
