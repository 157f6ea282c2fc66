# Effects happen exactly once, whichever process is killed: tasks enqueued by INSERT … SELECT are worked off while
# workers are ended at random, often by pg_terminate_backend, twice by SIGKILL, which restarts the server.
#
# - all tasks are completed, none is left, none is there twice
# - each effect is there exactly once: it is a row with a unique key, so a second one would be an error that the task
#   remembers (23505), and a lost one a gap
# - workers were indeed ended in the middle of tasks: some needed more than one attempt
#
# JOBQUEUE_TASKS=1000000 for a long run; JOBQUEUE_SEED=... repeats the choices of an earlier one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $tasks = $ENV{JOBQUEUE_TASKS} // 30_000;
my $seed = $ENV{JOBQUEUE_SEED} // int(time * 1000) % 1_000_000;
srand $seed;
diag "JOBQUEUE_TASKS=$tasks JOBQUEUE_SEED=$seed";

my $node = start_node('exactly_once', restart_after_crash => 'on', max_worker_processes => 12);
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE TABLE effects (task bigint PRIMARY KEY, attempt integer NOT NULL);
	-- One task in a hundred writes, and then takes its time.
	CREATE FUNCTION effect(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		task jobqueue.tasks := jobqueue.current_task();
	BEGIN
		INSERT INTO public.effects VALUES (task.id, task.attempts);
		IF task.id % 100 = 0 THEN
			PERFORM pg_sleep(0.02);
		END IF;
	END $$;
	SELECT jobqueue.register_handler('effect', 'effect(jsonb)', max_attempts => 1000000);
SQL

# What is done with a session that may be lost to a crash at any time.
my $session;

sub query {
	my ($sql) = @_;
	my $result;
	while (!defined $result) {
		$result = eval {
			$session //= $node->background_psql('app');
			$session->query_safe($sql);
		};
		next if defined $result;
		eval { $session->{run}->kill_kill } if defined $session;
		undef $session;
		wait_for(sub { $node->psql('app', 'SELECT 1') == 0 }) or die 'the server does not come back';
	}
	return $result;
}

# Half of the tasks at once, the rest in pieces while workers are being ended.
my $enqueued = 0;

sub enqueue {
	my ($n) = @_;
	$n = $tasks - $enqueued if $enqueued + $n > $tasks;
	return if $n <= 0;
	query("INSERT INTO jobqueue.tasks (type, payload) SELECT 'effect', jsonb_build_object('n', n) FROM "
		. "generate_series(1, $n) n");
	$enqueued += $n;
}

enqueue(int($tasks / 2));

my $deadline = time + 120 + $tasks / 250;
my ($terminated, $killed, $left) = (0, 0, -1);
while (time < $deadline) {
	$left = query('SELECT count(*) FROM jobqueue.tasks_live');
	last if $left == 0 && $enqueued >= $tasks;
	# After a third and after two thirds of the work.
	if ($killed < 2 && $enqueued - $left > ($killed + 1) * $tasks / 3) {
		my @busy = split /\n/, query("SELECT pid FROM jobqueue.worker_status WHERE state = 'running' ORDER BY pid");
		my $victim = @busy ? $busy[ rand @busy ] : undef;
		my $offset = log_size($node);
		if ($victim && kill 'KILL', $victim) {
			++$killed;
			wait_for(sub { log_matches($node, qr/ready to accept connections/, $offset) })
			  or die 'the server does not come back';
			next;
		}
	}
	my @pids = split /\n/, query('SELECT pid FROM jobqueue.worker_status WHERE pid IS NOT NULL ORDER BY pid');
	if (@pids) {
		$terminated += query("SELECT pg_terminate_backend($pids[rand @pids])") eq 't';
	}
	enqueue(int(rand($tasks / 20)));
	usleep(int(rand(200_000)));
}
note "$terminated workers terminated, $killed killed";
is($enqueued, $tasks, "$tasks tasks were enqueued");
is($left, 0, 'nothing is left in tasks_live') or diag $node->safe_psql('app', 'TABLE jobqueue.tasks_live LIMIT 10');
is($killed, 2, 'two workers were killed');
cmp_ok($terminated, '>=', 10, 'many more were terminated');

is(statuses($node, 'app'), "completed $tasks", 'all tasks are completed');
is($node->safe_psql('app', 'SELECT count(*), count(DISTINCT id) FROM jobqueue.tasks'), "$tasks|$tasks",
	'each is there once');
is($node->safe_psql('app', 'SELECT count(*) FROM effects'), $tasks, 'as many effects');
is($node->safe_psql('app',
	'SELECT count(*) FROM jobqueue.tasks t FULL JOIN effects e ON e.task = t.id WHERE t.id IS NULL OR e.task IS NULL'),
	0, 'each of one task');
is($node->safe_psql('app',
	"SELECT id, attempts, last_error FROM jobqueue.tasks WHERE last_sqlstate = '23505' LIMIT 10"), '',
	'no effect was tried again after it was there');
is($node->safe_psql('app',
	"SELECT id, attempts, last_sqlstate, last_error FROM jobqueue.tasks WHERE last_sqlstate NOT IN ('JQ002', "
		. "'JQ005') LIMIT 10"), '',
	'no other error either');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE crashes > 0"),
	$node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE failures \@> '[{\"sqlstate\": \"JQ005\"}]'"),
	'a crash is charged where it was recorded');
cmp_ok($node->safe_psql('app', "SELECT sum(crashes) FROM jobqueue.tasks"), '<=', $killed,
	'to no more tasks than workers were killed');
is($node->safe_psql('app',
	'SELECT count(*) FROM jobqueue.tasks t JOIN effects e ON e.task = t.id WHERE e.attempt <> t.attempts'), 0,
	'the effect is that of the attempt that completed the task');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM jobqueue.tasks WHERE attempts > 1'), '>', 0,
	'workers were ended in the middle of tasks');
eval { $session->quit };
is(unexpected_in_log($node, qr/\(PID \d+\) was terminated by signal 9: Killed|terminating connection because of crash/),
	'',
	'nothing unexpected in the log');
$node->stop;
done_testing();
