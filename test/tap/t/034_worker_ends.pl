# What the end of a process means, and for whom.
#
# - A1: a role without LOGIN that is dropped, or a worker that is told to end, while that worker authenticates: the
#   server goes on
# - B4: the owner of the extension loses SUPERUSER, or gives its things away: everything works as before
# - B7: workers that end by errors of our own, or that end themselves again and again, are started ever more rarely; the
#   log says it once; no task is charged for what it did not do
# - C5: a batch handler that ends its process makes its own type run alone, then its role, and no other role
# - C10: max_worker_processes too small for anything to run is said at the start
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Nothing passes because of the fallback poll.
my $node = start_node('ends', autovacuum => 'off', 'jobqueue.poll_interval' => '1h', max_worker_processes => 20,
	'jobqueue.max_workers' => 8, 'jobqueue.fused_after' => 0);
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	CREATE FUNCTION leave(jsonb) RETURNS void LANGUAGE c AS 'bad_handlers', 'bad_leave';
	CREATE FUNCTION count_batch(tasks jobqueue.tasks[]) RETURNS jsonb[] LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM unnest(tasks) t WHERE t.payload ? 'leave') THEN
			RAISE LOG 'leaves, with % tasks', cardinality(tasks);
			PERFORM public.leave('{}');
		END IF;
		RETURN (SELECT array_agg(to_jsonb(cardinality(tasks))) FROM unnest(tasks));
	END $$;
SQL

sub sql { return $node->safe_psql('app', $_[0]); }

sub server_goes_on {
	my ($name, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", log_matches($node, qr/all server processes terminated|terminating any other active server processes/,
		$offset)), '', $name);
}

# --------------------------------------------------------------------------------------------------------------------
# A1

SKIP: {
	skip 'a role without LOGIN is authenticated as any other from 17 on', 6 if $node->pg_version >= 17;
	skip 'a server with assertions cannot run it', 6 if needs_login($node);
	for my $how ('dropped', 'told to end') {
		my $role = $how eq 'dropped' ? 'ghost' : 'guest';
		sql("CREATE ROLE $role NOLOGIN; SELECT jobqueue.register_handler('of $role', 'nothing(jsonb)', run_as => "
			. "'$role')");
		# the scheduler knows the role: it starts a worker without another look at it
		wait_sql($node, 'app',
			"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler' AND state = 'idle'", 1,
			"A1: $how: the scheduler is there");
		my $offset = log_size($node);
		my ($locker, $other) = map { $node->background_psql('app') } 1 .. 2;
		$_->query_safe("SELECT jobqueue.enqueue('nothing of the kind')") for $locker, $other; # all is in their caches
		$locker->query_safe("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE");
		$other->query_safe("SELECT jobqueue.enqueue('of $role')");
		my $pid = wait_for(sub {
			my $found = $locker->query_safe(
				q{SELECT min(pid) FROM pg_locks WHERE NOT granted AND relation = 'pg_authid'::regclass AND pid NOT }
					. q{IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler')});
			return $found =~ /^\d+$/ ? $found : undef;
		}, 30);
		ok($pid, "A1: a worker of a role that is $how waits for its role");
		if ($how eq 'dropped') {
			$locker->query_safe('DROP ROLE ghost');
		} else {
			kill 'TERM', $pid or die 'it is gone';
			ok(wait_for(sub { !kill 0, $pid }), "A1: $how: it ends");
		}
		$locker->query_safe('COMMIT');
		ok(wait_for(sub { !kill 0, $pid }), "A1: $how: the worker ends") if $how eq 'dropped';
		eval { $_->quit } for $locker, $other;
		poll_sql($node, 'app', 'SELECT true');
		server_goes_on("A1: a role without LOGIN is $how while its worker authenticates: the server goes on", $offset);
	}
	my $id = sql("SELECT jobqueue.enqueue('of guest')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		'A1: its next worker runs its tasks');
}

# --------------------------------------------------------------------------------------------------------------------
# B4

$node->safe_psql('postgres', 'CREATE ROLE boss SUPERUSER LOGIN; CREATE ROLE heir LOGIN; CREATE DATABASE owned');
$node->safe_psql('owned', 'CREATE EXTENSION jobqueue', extra_params => [ '-U', 'boss' ]);
$node->safe_psql('owned', <<'SQL');
	CREATE ROLE worker LOGIN;
	CREATE SCHEMA hidden AUTHORIZATION worker;
	CREATE FUNCTION hidden.nothing(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	CREATE FUNCTION hidden.delay(integer, text) RETURNS interval LANGUAGE sql AS $$SELECT interval '1 ms'$$;
SQL
sub works {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	(my $type = $name) =~ s/\W/_/g;
	my ($status, undef, $err) = $node->psql('owned', <<SQL);
		SELECT jobqueue.register_handler('$type', 'hidden.nothing(jsonb)', run_as => 'worker',
			backoff_function => 'hidden.delay(integer, text)');
		SELECT jobqueue.grant_access('worker', 'manager', '$type');
		SELECT jobqueue.schedule('$type', '* * * * * *', '$type', queue => '$type');
		SELECT jobqueue.enqueue('$type');
		SELECT jobqueue.enqueue('$type', delay => '100 ms');
SQL
	is($err =~ s/^.*NOTICE:.*\n//gmr, '', "B4: $name: everything can be called");
	wait_sql($node, 'owned', "SELECT count(*) >= 3 FROM jobqueue.tasks WHERE type = '$type' AND status = 'completed'",
		't',
		"B4: $name: tasks run, delayed ones too, and schedules fire");
	$node->safe_psql('owned', "SELECT jobqueue.unschedule('$type')");
}
my $offset = log_size($node);
works('the owner is a superuser');
$node->safe_psql('postgres', 'ALTER ROLE boss NOSUPERUSER');
works('the owner is none any more');
# a scheduler and workers that know nothing yet
$node->restart;
works('after a restart');
$node->safe_psql('owned', 'REASSIGN OWNED BY boss TO heir; DROP OWNED BY boss');
works('all was given to somebody else');
is(unexpected_in_log($node, qr/terminating background worker|"ghost"/, $offset), '', 'B4: no process has had an error');

# --------------------------------------------------------------------------------------------------------------------
# B7: errors of our own

sql(<<'SQL');
	CREATE ROLE unlucky LOGIN;
	CREATE ROLE lucky LOGIN;
	SELECT jobqueue.register_handler('of ' || r, 'nothing(jsonb)', run_as => r, max_attempts => 3)
		FROM unnest(ARRAY['unlucky', 'lucky']::name[]) r;
SQL
my $before = sql("SELECT jobqueue.enqueue('of unlucky')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $before", 'completed', 'B7: all is well', 30);

# The handler succeeds; neither that nor anything else can be written down, but that its worker was to blame. As if the
# disk was full.
sql("ALTER TABLE jobqueue.tasks ADD CONSTRAINT disk_is_full CHECK (type <> 'of unlucky' OR (status IN ('pending', "
	. "'processing', 'scheduled') AND coalesce(last_sqlstate, 'JQ002') = 'JQ002')) NOT VALID");
$offset = log_size($node);
my $unlucky = sql(q{SELECT jobqueue.enqueue('of unlucky', '"a secret"')});
ok(wait_for(sub { log_matches($node, qr/ended by an error: .*disk_is_full/, $offset) }, 30),
	'B7: a worker that cannot write what became of its task ends, and says so')
  or diag log_since($node, $offset);
my $lucky = sql("SELECT jobqueue.enqueue('of lucky')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $lucky", 'completed',
	'B7: others are served meanwhile', 60);
wait_sql($node, 'app',
	"SELECT count(*) FROM jobqueue.tasks_live WHERE id = $unlucky AND status IN ('pending', 'scheduled')", 1,
		'B7: its task goes back', 30);
{
	my ($cpu, $log) = watch_idle($node, 6);
	my $ends = () = $log =~ /jobqueue worker:|exited with exit code/g;
	cmp_ok($ends, '<=', 12, 'B7: workers are not started again and again, and the log is not filled') or diag $log;
}
is(scalar(log_matches($node, qr/ended by an error: .*disk_is_full/, $offset)), 1, 'B7: that they end is said once');
is(sql("SELECT max_attempts - attempts >= 2, last_error IS NULL, crashes FROM jobqueue.tasks_live WHERE id = "
	. "$unlucky"), 't|t|0', 'B7: the task is not charged');
sql('ALTER TABLE jobqueue.tasks DROP CONSTRAINT disk_is_full');
sql("ALTER TABLE jobqueue.tasks ADD CONSTRAINT never_done CHECK (type <> 'of lucky' OR status <> 'completed' OR "
	. "payload = '{}') NOT VALID");
my $refused = sql(q{SELECT jobqueue.enqueue('of lucky', '"a secret"', max_attempts => 1)});
wait_sql($node, 'app', "SELECT last_sqlstate FROM jobqueue.tasks WHERE id = $refused AND status = 'failed'", '23514',
	'a task that cannot be completed fails', 30);
is(join("\n", log_matches($node, qr/a secret|Failing row/, $offset)), '',
	'an error of our own puts no payload into the log');
like(sql("SELECT failures FROM jobqueue.tasks WHERE id = $refused"), qr/a secret/,
	'... but into the failures of the task, which its consumers read');
sql('ALTER TABLE jobqueue.tasks DROP CONSTRAINT never_done');
wait_sql($node, 'app', "SELECT status, last_error IS NULL FROM jobqueue.tasks WHERE id = $unlucky", 'completed|t',
	'B7: it runs when all is well again', 120);

# Workers that cannot claim.
sql("ALTER TABLE jobqueue.tasks ADD CONSTRAINT no_claims CHECK (type <> 'of lucky' OR status IN ('pending', "
	. "'scheduled')) NOT VALID");
$offset = log_size($node);
my @waiting = split /\n/, sql("SELECT jobqueue.enqueue('of lucky') FROM generate_series(1, 5)");
ok(wait_for(sub { log_matches($node, qr/ended by an error: .*no_claims/, $offset) }, 30),
	'B7: workers that cannot claim end');
{
	my ($awake, $log) = watch_idle($node, 6);
	my $ends = () = $log =~ /jobqueue worker:|exited with exit code/g;
	cmp_ok($ends, '<=', 12, 'B7: they are not started again and again');
	is_seldom_awake($awake, 300, 'B7: hardly any of our processes is awake');

}
is(sql("SELECT count(*) FROM jobqueue.tasks_live WHERE id BETWEEN $waiting[0] AND $waiting[-1] AND last_error IS "
	. "NULL AND attempts = 0"), 5,
	'B7: no task is charged');
sql('ALTER TABLE jobqueue.tasks DROP CONSTRAINT no_claims');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = 'of lucky'", 0,
	'B7: they run when all is well again', 120);

# Tasks that end their process, one after the other: each is charged, and each next worker is waited for longer.
sql("CREATE ROLE leaver LOGIN; SELECT jobqueue.register_handler('leave', 'leave(jsonb)', run_as => 'leaver', "
	. "first_delay => '1 ms', max_attempts => 100)");
$offset = log_size($node);
sql("SELECT jobqueue.enqueue('leave') FROM generate_series(1, 100)");
ok(wait_for(sub { log_matches($node, qr/FATAL:  leaving/, $offset) >= 5 }, 60), 'B7: tasks end their processes');
{
	my $n = log_matches($node, qr/FATAL:  leaving/, $offset);
	watch_idle($node, 5);
	cmp_ok(log_matches($node, qr/FATAL:  leaving/, $offset) - $n, '<=', 8, 'B7: ... ever more rarely');
}
wait_sql($node, 'app', 'SELECT count(*) > 0 FROM jobqueue.tasks_live WHERE crashes > 0', 't',
	'B7: they are charged for it', 30);
sql("DELETE FROM jobqueue.tasks_live WHERE type = 'leave'");

# --------------------------------------------------------------------------------------------------------------------
# C5

sql(<<'SQL');
	CREATE ROLE clumsy LOGIN;
	CREATE ROLE deft LOGIN;
	GRANT EXECUTE ON FUNCTION leave(jsonb) TO clumsy;
	SELECT jobqueue.register_handler(r || ' ' || n, 'count_batch(jobqueue.tasks[])', run_as => r, batch_size => 50)
	FROM unnest(ARRAY['clumsy', 'deft']::name[]) r, generate_series(1, 6) n;
SQL

# The largest batch of so many tasks that come at once, the second time: a worker begins with small ones.
sub batch_of {
	my ($type) = @_;
	my @ids;
	for (1 .. 2) {
		@ids = split /\n/, sql("SELECT jobqueue.enqueue('$type') FROM generate_series(1, 100)");
		wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = '$type'", 0,
			"C5: tasks '$type' run", 60);
	}
	return sql("SELECT max(result::text::integer) FROM jobqueue.tasks WHERE id BETWEEN $ids[0] AND $ids[-1] AND type "
		. "= '$type'");
}

# A batch, one of which ends the process. A worker that has just started begins with one task: then it is known which
# task it was, and another batch is needed.
sub spoil {
	my ($type) = @_;
	for (1 .. 10) {
		my $offset = log_size($node);
		sql("SELECT jobqueue.pause_queue('default')");
		sql(qq[SELECT jobqueue.enqueue('$type', CASE n WHEN 3 THEN '{"leave": 1}' ELSE '{}' END::jsonb, ]
			. qq[max_attempts => 1) FROM generate_series(1, 6) n]);
		sql("SELECT jobqueue.resume_queue('default')");
		wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live WHERE type = '$type'", 0,
			"C5: tasks '$type' end a process", 60);
		return if log_matches($node, qr/leaves, with [2-6] tasks/, $offset);
		batch_of($type);
	}
	fail("C5: a process with several tasks '$type' ends");
}
cmp_ok(batch_of('clumsy 1'), '>', 1, 'C5: tasks run together');
spoil('clumsy 1');
is(batch_of('clumsy 1'), 1, 'C5: a type that ended its process runs alone');
cmp_ok(batch_of('clumsy 6'), '>', 1, 'C5: ... other types of its role do not');
cmp_ok(batch_of('deft 1'), '>', 1, 'C5: ... nor those of others');
for my $n (2 .. 5) {
	batch_of("clumsy $n");
	spoil("clumsy $n");
}
is(batch_of('clumsy 6'), 1, 'C5: where many types did so, all of the role run alone');
cmp_ok(batch_of('deft 1'), '>', 1, 'C5: ... and no other role');
$node->stop;

# --------------------------------------------------------------------------------------------------------------------
# C10

my $small = start_node('small', max_worker_processes => 3);
ok(wait_for(
	sub { log_matches($small, qr/jobqueue cannot run tasks: max_worker_processes is 3, but must be at least 4/) }, 30),
	'C10: that nothing can run is said at the start');
$small->stop;
done_testing();
