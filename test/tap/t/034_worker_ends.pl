# What the end of a process means, and for whom.
#
# - A1: a role without LOGIN that is dropped, or a worker that is told to end, while that worker authenticates: the server
#   goes on
# - B4: the owner of the extension loses SUPERUSER, or gives its things away: everything works as before
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
SQL

sub sql { return $node->safe_psql('app', $_[0]); }

sub server_goes_on {
	my ($name, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", log_matches($node, qr/all server processes terminated|terminating any other active server processes/, $offset)), '', $name);
}

# --------------------------------------------------------------------------------------------------------------------
# A1

SKIP: {
	skip 'a role without LOGIN is authenticated as any other from 17 on', 6 if $node->pg_version >= 17;
	for my $how ('dropped', 'told to end') {
		my $role = $how eq 'dropped' ? 'ghost' : 'guest';
		sql("CREATE ROLE $role NOLOGIN; SELECT jobqueue.register_handler('of $role', 'nothing(jsonb)', run_as => '$role')");
		# the scheduler knows the role: it starts a worker without another look at it
		wait_sql($node, 'app', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler' AND state = 'idle'", 1,
			"A1: $how: the scheduler is there");
		my $offset = log_size($node);
		my ($locker, $other) = map { $node->background_psql('app') } 1 .. 2;
		$_->query_safe("SELECT jobqueue.enqueue('nothing of the kind')") for $locker, $other; # all is in their caches
		$locker->query_safe("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE");
		$other->query_safe("SELECT jobqueue.enqueue('of $role')");
		my $pid = wait_for(sub {
			my $found = $locker->query_safe(
				q{SELECT min(pid) FROM pg_locks WHERE NOT granted AND relation = 'pg_authid'::regclass AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler')});
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
		$node->poll_query_until('app', 'SELECT true');
		server_goes_on("A1: a role without LOGIN is $how while its worker authenticates: the server goes on", $offset);
	}
	my $id = sql("SELECT jobqueue.enqueue('of guest')");
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'A1: its next worker runs its tasks');
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
		SELECT jobqueue.register_handler('$type', 'hidden.nothing(jsonb)', run_as => 'worker', backoff_function => 'hidden.delay(integer, text)');
		SELECT jobqueue.grant_access('worker', 'manager', '$type');
		SELECT jobqueue.schedule('$type', '* * * * * *', '$type', queue => '$type');
		SELECT jobqueue.enqueue('$type');
		SELECT jobqueue.enqueue('$type', delay => '100 ms');
SQL
	is($err =~ s/^.*NOTICE:.*\n//gmr, '', "B4: $name: everything can be called");
	wait_sql($node, 'owned', "SELECT count(*) >= 3 FROM jobqueue.tasks WHERE type = '$type' AND status = 'completed'", 't',
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

$node->stop;
done_testing();
