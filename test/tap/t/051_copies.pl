# Copies of a server and of its tasks run nothing until adopt() is called.
#
# - a copy of the data directory (E1) that was told so before its first start, by jobqueue.start_paused or by a file:
#   nothing runs, nor after a start without it; adopt() ends that, until the next start that is told the same
# - another system identifier (E1) is none of the reasons: pg_upgrade makes one
# - tasks that a subscription brings (E16) are left alone, also when it is gone; adopt() starts them, and moves the
#   sequence
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $production = new_node('production', autovacuum => 'off', init => { allows_streaming => 'logical' },
	'jobqueue.max_workers' => 0, 'jobqueue.poll_interval' => '200ms');
$production->start;
create_queue($production, 'app', 'other');
create_ledger($production, 'app', 'other');
$production->safe_psql($_, "SELECT jobqueue.enqueue('note') FROM generate_series(1, 3)") for qw(app other);
$production->safe_psql('app',
	"SELECT jobqueue.schedule('often', '1 second', 'note'), jobqueue.enqueue('outside', queue => 'out'), "
		. "jobqueue.pause_schedule('often')");
$production->backup('copy');

sub copy {
	my ($name) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);
	$copy->init_from_backup($production, 'copy');
	$copy->append_conf('postgresql.conf', "jobqueue.max_workers = 2\nrestart_after_crash = on\n");
	return $copy;
}

sub warned {
	my ($node, $database, $reason, $name, $offset) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_for(sub { log_matches($node, qr/WARNING:  jobqueue runs no tasks in database "$database": $reason/,
		$offset) }), $name);
}

sub is_paused {
	my ($node, $database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, $database, 'SELECT bool_and(paused) FROM jobqueue.queue_status', 't', "$name: paused");
	is($node->safe_psql($database, "SELECT count(*) FROM ledger"), 0, "$name: nothing has run");
	is($node->safe_psql($database, "SELECT count(*) FROM jobqueue.claim('out')"), 0, "$name: nothing can be claimed");
}

# --------------------------------------------------------------------------------------------------------------------
# E1: the setting

my $copy = copy('by_setting');
$copy->append_conf('postgresql.conf', "jobqueue.start_paused = on\n");
$copy->start;
warned($copy, $_, 'jobqueue.start_paused is on', "E1: jobqueue.start_paused, $_: said so") for qw(app other);
is_paused($copy, 'app', 'E1: jobqueue.start_paused');
my ($status, $out, $error) = $copy->psql('app', 'SELECT jobqueue.adopt()');
is($out, 't', 'E1: adopt() says that it changed something');
like($error, qr/NOTICE:  the next start of the server pauses this database again/, 'E1: ... and what comes next');
wait_sql($copy, 'app', 'SELECT count(*) FROM ledger', 3, 'E1: tasks of the adopted database run');
is_paused($copy, 'other', 'E1: the other one');

# A crash is no start.
my $offset = log_size($copy);
my $backend = $copy->background_psql('postgres', on_error_stop => 0);
my $pid = $backend->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $pid;
ok(wait_for(sub { log_matches($copy, qr/database system is ready to accept connections/, $offset) }),
	'the server has started again by itself');
eval { $backend->quit };
my $id = $copy->safe_psql('app', "SELECT jobqueue.enqueue('note')");
wait_sql($copy, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'E1: after a crash an adopted database is as before');

# Without the setting: what was paused stays paused, what was adopted is so.
$copy->append_conf('postgresql.conf', "jobqueue.start_paused = off\n");
$copy->restart;
$id = $copy->safe_psql('app', "SELECT jobqueue.enqueue('note')");
wait_sql($copy, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed',
	'E1: an adopted copy runs after a start without the setting');
is_paused($copy, 'other', 'E1: one that was not adopted, after a start without the setting');

# A file; and a copy of a copy that was adopted.
$copy->stop;
append_to_file($copy->data_dir . '/jobqueue.paused', '');
$offset = log_size($copy);
$copy->start;
warned($copy, 'app', 'there is a file jobqueue.paused', 'E1: the file: said so', $offset);
wait_sql($copy, 'app', 'SELECT bool_and(paused) FROM jobqueue.queue_status', 't',
	'E1: the file: a database that was adopted before is paused');
is($copy->safe_psql('app', 'SELECT jobqueue.adopt()'), 't', 'adopted');
$id = $copy->safe_psql('app', "SELECT jobqueue.enqueue('note')");
wait_sql($copy, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', 'E1: the file: adopted');

# E1: pg_upgrade
ok(unlink($copy->data_dir . '/jobqueue.paused'), 'the file is gone');
$copy->safe_psql('app', 'UPDATE jobqueue.incarnation SET system_identifier = 1');
wait_sql($copy, 'app',
	'SELECT system_identifier = (SELECT s.system_identifier FROM pg_control_system() s) FROM jobqueue.incarnation', 't',
	'E1: after pg_upgrade the new server is noted');
is($copy->safe_psql('app', 'SELECT jobqueue.adopt()'), 'f', 'E1: ... and there is nothing to adopt');
is(unexpected_in_log($copy,
	qr/runs no tasks in database|server closed|was terminated by signal 9|terminating connection|because of crash/), '',
		'nothing unexpected in the log');
$copy->stop;

# --------------------------------------------------------------------------------------------------------------------
# E16: replication

$production->append_conf('postgresql.conf', "jobqueue.max_workers = 2\n");
$production->reload;
wait_sql($production, 'app', 'SELECT count(*) FROM ledger', 3, 'production runs its tasks');
create_queue($production, 'subscriber');
create_ledger($production, 'subscriber');
$production->safe_psql('app', "SELECT jobqueue.unregister_handler('note')");
$production->safe_psql('subscriber', "SELECT jobqueue.enqueue('note')");
wait_sql($production, 'subscriber', 'SELECT count(*) FROM ledger', 1, 'the subscriber runs its own tasks');
$production->safe_psql('subscriber', 'TRUNCATE ledger, jobqueue.tasks');
$production->safe_psql('app',
	"CREATE PUBLICATION tasks FOR TABLE jobqueue.tasks; SELECT setval('jobqueue.tasks_id_seq', 1000)");
$production->safe_psql('app', "SELECT pg_create_logical_replication_slot('tasks', 'pgoutput')");
$offset = log_size($production);
my $connection = $production->connstr('app') =~ s/'/''/gr;
$production->safe_psql('subscriber',
	"CREATE SUBSCRIPTION tasks CONNECTION '$connection' PUBLICATION tasks WITH (create_slot = false)");
warned($production, 'subscriber', 'a subscription brings its tasks', 'E16: a subscription is noticed', $offset);
$production->safe_psql('app', "SELECT jobqueue.enqueue('note') FROM generate_series(1, 5)");
wait_sql($production, 'subscriber', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'pending' AND type = 'note'", 5,
	'E16: tasks arrive');
is_paused($production, 'subscriber', 'E16: what arrives');
$id = $production->safe_psql('app',
	"UPDATE jobqueue.tasks SET priority = 7 WHERE type = 'note' AND status = 'pending' RETURNING 1");
wait_sql($production, 'subscriber', "SELECT count(*) FROM jobqueue.tasks WHERE priority = 7", 5, 'E16: changes arrive');
is($production->safe_psql('subscriber',
	"SELECT count(*) FROM jobqueue.tasks WHERE status <> 'pending' AND priority = 7"), 0, 'E16: and nothing has run');
is(scalar(log_matches($production, qr/WARNING:  jobqueue runs no tasks in database "subscriber"/, $offset)), 1,
	'E16: said once');
is_deeply([ log_matches($production, qr/ERROR/, $offset) ], [], 'E16: no conflict');

$production->safe_psql('subscriber',
	'ALTER SUBSCRIPTION tasks DISABLE; ALTER SUBSCRIPTION tasks SET (slot_name = NONE); DROP SUBSCRIPTION tasks');
is_paused($production, 'subscriber', 'E16: without the subscription');
is($production->safe_psql('subscriber', 'SELECT jobqueue.adopt()'), 't', 'E16: adopted');
wait_sql($production, 'subscriber', 'SELECT count(*) FROM ledger', 5, 'E16: the tasks run');
is($production->safe_psql('subscriber',
	"SELECT jobqueue.enqueue('note') > (SELECT max(id) FROM jobqueue.tasks WHERE priority = 7)"), 't',
	'E16: new ids come after those that are there');
wait_sql($production, 'subscriber', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'note' AND status <> "
	. "'completed'", 0, 'E16: ... and no task fails for its id');

# With the subscription in place, for who wants that; also where nothing held the tasks back.
$production->safe_psql('subscriber', 'TRUNCATE ledger, jobqueue.tasks');
$production->safe_psql('subscriber',
	"CREATE SUBSCRIPTION tasks CONNECTION '$connection' PUBLICATION tasks WITH (create_slot = false, slot_name = "
		. "'tasks', copy_data = false)");
is_paused($production, 'subscriber', 'E16: another subscription');
($status, $out, $error) = $production->psql('subscriber', 'SELECT jobqueue.adopt()');
like($error, qr/WARNING:  a subscription brings tasks into this database/, 'E16: adopted nevertheless, with a warning');
$production->safe_psql('subscriber', "INSERT INTO jobqueue.tasks (id, type) VALUES (500000, 'note')");
wait_sql($production, 'subscriber', 'SELECT count(*) FROM ledger', 1, 'E16: ... its tasks run');
is($production->safe_psql('subscriber', 'SELECT jobqueue.adopt()'), 'f', 'E16: nothing to adopt');
cmp_ok($production->safe_psql('subscriber', "SELECT jobqueue.enqueue('note')"), '>', 500000,
	'E16: ... but the sequence has been moved');
$production->safe_psql('subscriber',
	'ALTER SUBSCRIPTION tasks DISABLE; ALTER SUBSCRIPTION tasks SET (slot_name = NONE); DROP SUBSCRIPTION tasks');
$production->safe_psql('postgres', "SELECT pg_drop_replication_slot('tasks')");
$production->stop;
done_testing();
