# Rights are asked when something acts, and roles take turns.
#
# - schedules, of roles that had rights by hand, or were superusers: they stop when that is over, and say why, once
# - handlers likewise; a schema whose USAGE is revoked
# - thousands of schedules of one role: somebody else's fires among the first; thousands that fail: a few lines in the
#   log
# - max_schedules; max_queued counts what is prepared, and costs no more than what the role itself has waiting
# - pg_read_all_data reads none of our tables, pg_write_all_data changes none
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('rights', autovacuum => 'off', max_prepared_transactions => 5, 'jobqueue.poll_interval' => '1h');
create_queue($node, 'app');

sub admin {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql");
}

# What a role gets: the SQLSTATE, or what the last statement returns.
sub attempt {
	my ($who, $sql) = @_;
	my ($status, $out, $err) = $node->psql('app', $sql, on_error_stop => 1,
		extra_params => [ '-U', $who, '-v', 'VERBOSITY=sqlstate' ]);
	return $1 if $err =~ /(?:ERROR|FATAL):\s+(\w{5})/;
	return (split /\n/, $out)[-1] // '';
}

my $functions = 'USAGE ON SCHEMA jobqueue TO %1$s; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA jobqueue TO %1$s';
sub by_hand {
	my ($role) = @_;
	admin("CREATE ROLE $role LOGIN; GRANT " . sprintf $functions, $role);
}

# --------------------------------------------------------------------------------------------------------------------
# D2: schedules

my $schedules = 0;
sub stops {
	my ($role, $name, $make, $take, $give) = @_;
	$make->($role);
	attempt($role, "SELECT jobqueue.schedule('of $role', '1 second', 'type of $role')");
	my $tasks = "SELECT count(*) FROM jobqueue.tasks WHERE type = 'type of $role'";
	wait_sql($node, 'app', "SELECT count(*) > 0 FROM jobqueue.tasks WHERE type = 'type of $role'", 't',
		"D2: a schedule $name: fires", 30);
	my $offset = log_size($node);
	admin($take);
	wait_sql($node, 'app',
		"SELECT last_error LIKE 'permission denied for queue%' FROM jobqueue.schedules WHERE name = 'of $role'", 't',
			'... and stops, and says why', 30);
	my $count = admin($tasks);
	admin("SELECT jobqueue.schedule('tick $role', '1 second', 'tick $role')");
	wait_sql($node, 'app', "SELECT count(*) >= 3 FROM jobqueue.tasks WHERE type = 'tick $role'", 't',
		'... others go on', 30);
	is(admin($tasks), $count, '... it does not');
	is(scalar(log_matches($node, qr/could not fire schedule "of $role"/, $offset)), 1, '... said once');
	admin("SELECT jobqueue.unschedule('tick $role')");
	if ($give) {
		admin($give);
		wait_sql($node, 'app', "SELECT count(*) > $count FROM jobqueue.tasks WHERE type = 'type of $role'", 't',
			'... until it may again', 40);
	}
	admin("SELECT jobqueue.unschedule('of $role')");
}
my $super = sub { admin("CREATE ROLE $_[0] LOGIN SUPERUSER") };
stops('hand1', 'by rights given by hand, which are revoked', \&by_hand,
	'REVOKE ALL ON ALL FUNCTIONS IN SCHEMA jobqueue FROM hand1', 'GRANT ' . sprintf $functions, 'hand1');
stops('hand2', '... of which the schema is', \&by_hand, 'REVOKE USAGE ON SCHEMA jobqueue FROM hand2');
stops('hand3', '... whose role is given access to another queue', \&by_hand,
	"SELECT jobqueue.grant_access('hand3', 'manager', 'elsewhere')",
		"SELECT jobqueue.grant_access('hand3', 'manager', 'default')");
stops('super1', 'of a superuser, who is none any more', $super, 'ALTER ROLE super1 NOSUPERUSER');
admin('CREATE ROLE team; GRANT ' . sprintf $functions, 'team');
stops('member', 'of a member, who is none any more', sub { admin("CREATE ROLE $_[0] LOGIN IN ROLE team") },
	'REVOKE team FROM member', 'GRANT team TO member');

# --------------------------------------------------------------------------------------------------------------------
# D2: handlers

admin("CREATE FUNCTION done(payload jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT payload'");
sub enqueue {
	my ($type, $queue) = @_;
	return admin("SELECT jobqueue.enqueue('$type', queue => '$queue')");
}
sub status {
	my ($id) = @_;
	return admin("SELECT status FROM jobqueue.tasks WHERE id = $id");
}
admin("CREATE ROLE bystander LOGIN; SELECT jobqueue.register_handler('bystander', 'done(jsonb)', run_as => "
	. "'bystander')");
# The scheduler has looked since: it has started a worker for another role, and would have started one for this role.
sub wait_a_look {
	for (1 .. 2) {
		my $id = admin("SELECT jobqueue.enqueue('bystander', delay => '0.5 s')");
		wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
			'... a bystander is served', 30);
	}
}
sub handler_stops {
	my ($role, $name, $make, $take, $some, $give) = @_;
	$make->($role);
	attempt($role, "SELECT jobqueue.register_handler('of $role', 'done(jsonb)')");
	my $id = enqueue("of $role", 'b');
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
		"D2: a handler $name: runs", 30);
	my $offset = log_size($node);
	admin($take);
	wait_a_look();
	my $other = enqueue("of $role", 'b');
	$id = enqueue("of $role", 'a');
	if ($some) {
		wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', '... then in its '
			. 'queue', 30);
	} else {
		wait_for(sub { log_matches($node, qr/does not run the handlers of role "$role"/, $offset) }, 30);
	}
	wait_a_look();
	is(status($other), 'pending', '... and not in others');
	is(scalar(log_matches($node, qr/does not run the handlers of role "$role"/, $offset)), $some ? 0 : 1,
		'... said once, if in none');
	is(admin("SELECT jobqueue._serves_all('$role'::regrole)"), 'f', '... nor has it a say there');
	admin($give);
	wait_a_look(); # what is granted by hand is seen when something wakes the scheduler, or at its poll
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $other", 'completed', '... until it may '
		. 'again', 40);
	admin("SELECT jobqueue.unregister_handler('of $role')");
}
handler_stops('hand4', 'by rights given by hand, whose role is then limited', \&by_hand,
	"SELECT jobqueue.grant_access('hand4', 'manager', 'a')", 1,
		"SELECT jobqueue.grant_access('hand4', 'consumer', 'b')");
handler_stops('hand5', '... which are revoked', \&by_hand, 'REVOKE ALL ON ALL FUNCTIONS IN SCHEMA jobqueue FROM '
	. 'hand5', 0, 'GRANT ' . sprintf $functions, 'hand5');
handler_stops('super2', 'of a superuser, who is none any more', $super, 'ALTER ROLE super2 NOSUPERUSER', 0,
	'ALTER ROLE super2 SUPERUSER');

# for another role, by who may: that is a right given to it, whatever else it has
admin("CREATE ROLE given LOGIN; SELECT jobqueue.register_handler('given', 'done(jsonb)', run_as => 'given'); SELECT "
	. "jobqueue.grant_access('given', 'producer', 'a')");
my $given = enqueue('given', 'b');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $given", 'completed',
	'D2: a handler that was given to a role serves all queues', 30);

# the function's schema
admin(<<'SQL');
	CREATE SCHEMA code;
	CREATE FUNCTION code.work(payload jsonb) RETURNS void LANGUAGE sql AS '';
	GRANT USAGE ON SCHEMA code TO given;
	SELECT jobqueue.register_handler('in a schema', 'code.work(jsonb)', run_as => 'given', max_attempts => 1);
SQL
my $in_schema = enqueue('in a schema', 'a');
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $in_schema", 'completed',
	'D2: a function in a schema that its role may use', 30);
admin('REVOKE USAGE ON SCHEMA code FROM given');
$in_schema = enqueue('in a schema', 'a');
wait_sql($node, 'app', "SELECT status || ' ' || last_sqlstate FROM jobqueue.tasks WHERE id = $in_schema",
	'failed 42501', '... does not run when it may not any more', 30);
my (undef, undef, $refusal) =
	$node->psql('app', "SELECT jobqueue.register_handler('in a schema', 'code.work(jsonb)', run_as => 'given')");
like($refusal, qr/role "given" may not execute function code.work/, '... nor is it registered again');

# --------------------------------------------------------------------------------------------------------------------
# D2: rights to all tables

admin("CREATE ROLE all_reader LOGIN IN ROLE pg_read_all_data; CREATE ROLE all_writer LOGIN IN ROLE pg_read_all_data, "
	. "pg_write_all_data; GRANT USAGE ON SCHEMA jobqueue TO all_reader, all_writer");
admin("INSERT INTO jobqueue.parents (id, status, result) VALUES (-1, 'completed', '\"secret\"')");
admin("SELECT jobqueue.limit_role('given', max_payload => 1000000)");
my @tables = split /\n/,
	admin("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace AND relkind IN ('r', "
		. "'p') AND relname <> 'incarnation' ORDER BY 1");
cmp_ok(@tables, '>', 15, 'tables are found');
is(attempt('all_reader', "SELECT count(*) FROM $_"), admin("SELECT count(*) FROM $_"),
	"D2: pg_read_all_data reads all of $_") for @tables;
for my $table (@tables) {
	is(attempt('all_reader', "WITH d AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM d"), '42501',
		"... and deletes nothing from $table");
}
is(attempt('all_writer',
	"INSERT INTO jobqueue.access (role, role_oid, access) SELECT rolname, oid, 'manager' FROM pg_roles WHERE rolname "
		. "= 'all_writer'"), '42501', 'D2: pg_write_all_data gives no access');
is(attempt('all_writer', "INSERT INTO jobqueue.parents (id, status) VALUES (-2, 'completed')"), '42501',
	'... nor says how tasks ended');
is(attempt('all_writer', "INSERT INTO jobqueue.tasks (type) VALUES ('x')"), '42501', '... nor adds tasks');
for my $table (grep { !/tasks/ } @tables) {
	is(attempt('all_writer', "WITH d AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM d"), 0,
		"... nor deletes from $table");
}

# --------------------------------------------------------------------------------------------------------------------
# C3: roles take turns

admin(<<'SQL');
	CREATE ROLE greedy LOGIN;
	CREATE ROLE modest LOGIN;
	SELECT jobqueue.grant_access(r, 'manager', r) FROM unnest('{greedy,modest}'::name[]) r;
SQL
attempt('greedy', "SELECT jobqueue.schedule('g', '1 year', 'greedy', queue => 'greedy')");
attempt('modest', "SELECT jobqueue.schedule('m', '1 year', 'modest', queue => 'modest')");
my $many = 4000;
my $copies = <<"SQL";
	INSERT INTO jobqueue.schedules (name, cron, type, queue, created_by, created_by_oid, governed, anchor, incarnation,
		next_run_at)
	SELECT 'g' || n, cron, type, queue, created_by, created_by_oid, governed, due - interval '1 year', incarnation, due
	FROM jobqueue.schedules, generate_series(1, $many) n, (VALUES (now() - interval '20 s')) d(due) WHERE name = 'g';
SQL
my $due = "anchor = now() - interval '10 s' - interval '1 year', next_run_at = now() - interval '10 s'";
admin("BEGIN; $copies UPDATE jobqueue.schedules SET $due WHERE name = 'm'; COMMIT");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'modest'", 1,
	'C3: thousands of one role are due, and one of another', 120);
my $before =
	admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'greedy' AND id < (SELECT id FROM jobqueue.tasks WHERE "
		. "type = 'modest')");
cmp_ok($before, '<=', 1000, '... which fires among the first');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'greedy'", $many,
	'... and all the others after it', 180);

# they fail, all of them
my $offset = log_size($node);
admin("BEGIN; SELECT jobqueue.revoke_access('greedy', 'manager'); UPDATE jobqueue.schedules SET $due WHERE type = "
	. "'greedy'; COMMIT");
wait_sql($node, 'app', "SELECT count(*) >= 300 FROM jobqueue.schedules WHERE last_error IS NOT NULL", 't',
	'C3: they all fail', 60);
admin("UPDATE jobqueue.schedules SET $due WHERE name = 'm'");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'modest'", 2, '... and another one fires', 60);
cmp_ok(scalar(log_matches($node, qr/could not fire schedule/, $offset)), '<=', 3,
	'... the log has it, and not for each of them');
admin("DELETE FROM jobqueue.schedules WHERE type = 'greedy'; DELETE FROM jobqueue.tasks WHERE type = 'greedy'");

# many times of one schedule: not in one step. Its first tasks are there while later ones are not: other transactions
# made them
admin("SELECT jobqueue.grant_access('greedy', 'manager', 'greedy')");
attempt('greedy',
	"SELECT jobqueue.schedule('past', '1 second', 'past', queue => 'greedy', on_misfire => 'all', misfire_limit => "
		. "10000)");
admin("UPDATE jobqueue.schedules SET anchor = now() - interval '2000 s', next_run_at = now() - interval '1990 s' "
	. "WHERE name = 'past'");
wait_sql($node, 'app', "SELECT count(*) >= 1900 FROM jobqueue.tasks WHERE type = 'past'", 't',
	'C3: a schedule makes up for what it missed', 120);
admin("SELECT jobqueue.unschedule('past')");
cmp_ok(admin("SELECT max(n) FROM (SELECT count(*) AS n FROM jobqueue.tasks WHERE type = 'past' GROUP BY xmin) t"), '<=',
	200, '... in steps');
is(admin("SELECT count(*) = count(DISTINCT run_at) FROM jobqueue.tasks WHERE type = 'past'"), 't',
	'... each time once');
admin("DELETE FROM jobqueue.tasks WHERE type = 'past'");

# max_schedules
admin("SELECT jobqueue.limit_role('greedy', max_schedules => 2)");
is(join(' ',
	map { attempt('greedy', "SELECT jobqueue.schedule('few $_', '1 year', 'few', queue => 'greedy')") } 1 .. 3),
		'  54000', 'C3: max_schedules');
is(attempt('greedy', "SELECT jobqueue.schedule('few 1', '2 years', 'few', queue => 'greedy')"), '',
	'... one of them again');
admin("SELECT jobqueue.unschedule('few 1')");
is(attempt('greedy', "SELECT jobqueue.schedule('few 3', '1 year', 'few', queue => 'greedy')"), '',
	'... and another in place of one');
is(attempt('greedy',
	"BEGIN; SELECT jobqueue.unschedule('few 3'); SELECT jobqueue.schedule('few 4', '1 year', 'few', queue => "
		. "'greedy'); SELECT jobqueue.schedule('few 5', '1 year', 'few', queue => 'greedy')"), '54000',
		'... in one transaction');

# --------------------------------------------------------------------------------------------------------------------
# C12: max_queued

admin(<<'SQL');
	SELECT jobqueue.limit_role('greedy', max_queued => 100);
	CREATE ROLE limited LOGIN;
	SELECT jobqueue.grant_access('limited', 'producer', 'limited');
	SELECT jobqueue.limit_role('limited', max_queued => 3);
	INSERT INTO jobqueue.tasks (type) SELECT 'mountain' FROM generate_series(1, 30000);
	ANALYZE jobqueue.tasks_live;
SQL
attempt('greedy',
	"SELECT jobqueue.unschedule(name) FROM jobqueue.schedules; SELECT jobqueue.schedule('busy', '1 second', 'busy', "
		. "queue => 'greedy')");
# What is read of the tasks is counted, so our own queries leave them alone. Some statements of the scheduler may pass
# over all of them once, but none at each firing.
my $busy = "FROM jobqueue.schedules WHERE name = 'busy'";
my $reads = "SELECT seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid) FROM "
	. "pg_stat_user_tables t WHERE relid = 'jobqueue.tasks_live'::regclass";
wait_sql($node, 'app', "SELECT last_task_id > 0 $busy", 't',
	'C12: a role with max_queued, beside thirty thousand tasks');
my $first = admin("SELECT last_task_id $busy");
my $before_firing = admin($reads);
wait_sql($node, 'app', "SELECT last_task_id >= $first + 6 $busy", 't', '... fires');
cmp_ok(admin($reads) - $before_firing, '<', 60000, 'C12: ... and does not read all of them at each firing');
admin("SELECT jobqueue.unschedule('busy')");
my $fill = "SELECT count(jobqueue.enqueue('x', queue => 'limited')) FROM generate_series(1, %d)";
is(attempt('limited', sprintf "BEGIN; $fill; PREPARE TRANSACTION 'three'", 3), '3', 'C12: three tasks are prepared');
is(attempt('limited', "SELECT jobqueue.enqueue('x', queue => 'limited') > 0"), '54000', '... and count');
$node->restart;
is(attempt('limited', "SELECT jobqueue.enqueue('x', queue => 'limited') > 0"), '54000', '... also after a restart');
admin("COMMIT PREPARED 'three'");
is(attempt('limited', "SELECT jobqueue.enqueue('x', queue => 'limited') > 0"), '54000',
	'... and when they are committed');
is(admin("SELECT count(*) FROM jobqueue.tasks WHERE type = 'x'"), 3, '... three');
admin("SELECT jobqueue.cancel_tasks(queue => 'limited')");
is(attempt('limited', "SELECT jobqueue.enqueue('x', queue => 'limited') > 0"), 't', '... until they wait no more');
is(attempt('limited', sprintf "BEGIN; $fill; PREPARE TRANSACTION 'two'", 2), '2', '... two are prepared');
admin("ROLLBACK PREPARED 'two'");
is(attempt('limited', sprintf $fill, 2), '2', '... and what is rolled back does not count');
is(attempt('limited', "SELECT jobqueue.enqueue('x', queue => 'limited') > 0"), '54000', '... full again');

is(unexpected_in_log($node, qr/could not fire schedule|does not run the handlers/), '', 'nothing else in the log');
$node->stop;
done_testing();
