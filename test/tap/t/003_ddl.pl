# DDL on databases and on the extension while tasks run.
#
# - DROP EXTENSION, rolled back and for good; created again in the same session, and in the same transaction: tasks of
#   the new one are run, and a handler still running for the old one leaves no effect, nor ends a new task of the same
#   number
# - DROP DATABASE with busy workers is done in under 2 s
# - a role that may not drop, rename or copy a database fails, and stops nothing: the same worker goes on with the same
#   attempt
# - a command that fails for another reason gives the database back
# - ALTER DATABASE … RENAME and SET TABLESPACE, CREATE DATABASE … TEMPLATE with busy workers; interrupted tasks run
#   again at no cost; the copy is paused until adopt()
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('ddl', autovacuum => 'off', max_worker_processes => 16);

# A handler that writes a mark, then waits for as long as there is a row in the table "gate". Needs no session of ours
# in the database, which would be in the way of the commands to be tested. For the type "once", an attempt that is
# charged is the last one.
my $gated = <<'SQL';
	CREATE TABLE IF NOT EXISTS gate (closed boolean);
	CREATE TABLE IF NOT EXISTS marks (mark text);
	CREATE OR REPLACE FUNCTION gated(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.marks VALUES (payload->>'mark');
		WHILE EXISTS (SELECT FROM public.gate) LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
	END $$;
	SELECT jobqueue.register_handler('gated', 'gated(jsonb)');
	SELECT jobqueue.register_handler('once', 'gated(jsonb)', max_attempts => 1);
SQL

sub sql { return $node->safe_psql(@_); }

sub close_gate { sql($_[0], 'DELETE FROM gate; INSERT INTO gate VALUES (true)'); }
sub open_gate { sql($_[0], 'DELETE FROM gate'); }

sub run_gated {
	my ($database, $mark, $type) = @_;
	$type //= 'gated';
	my $id = sql($database, qq{SELECT jobqueue.enqueue('$type', '{"mark": "$mark"}')});
	wait_sql($node, $database, "SELECT count(*) FROM jobqueue.worker_status WHERE task_id = $id AND pid IS NOT NULL", 1,
		"$database: task $mark is running");
	return $id;
}

# Who runs what, in which attempt, since when: the same text means that nothing was disturbed.
sub running {
	my ($database) = @_;
	return sql($database, <<'SQL');
		SELECT string_agg(format('pid %s task %s attempt %s since %s', pid, task_id, attempt, state_since), '; '
			ORDER BY task_id)
		FROM jobqueue.worker_status WHERE state = 'running'
SQL
}

sub is_marked {
	my ($database, $marks, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql($database, "SELECT string_agg(mark, ' ' ORDER BY mark) FROM marks"), $marks, $name);
}

sub all_completed {
	my ($database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, $database, "SELECT count(*) FROM jobqueue.tasks WHERE status <> 'completed'", 0, $name)
	  or diag sql($database,
	  "SELECT id, type, status, attempts, max_attempts, run_at - now(), last_error FROM jobqueue.tasks "
		. "WHERE status <> 'completed' ORDER BY id"), "\n", sql($database, 'SELECT * FROM jobqueue.worker_status'),
		"\n", processes($node);
}

# Runs a command that must fail with this error.
sub refused {
	my ($database, $command, $error, $name, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $out, $stderr) = $node->psql($database, $command, @options);
	isnt($status, 0, "$name: fails");
	like($stderr, $error, "$name: with the server's own error");
}

# --------------------------------------------------------------------------------------------------------------------
# The extension

create_queue($node, 'app');
sql('app', $gated);

close_gate('app');
run_gated('app', 'a');
sql('app', 'BEGIN; DROP EXTENSION jobqueue; ROLLBACK');
run_gated('app', 'a2'); # not only the one that was interrupted, perhaps
open_gate('app');
all_completed('app', 'DROP EXTENSION rolled back: the task is completed');
sql('app', "SELECT jobqueue.enqueue('gated', '{\"mark\": \"b\"}')");
all_completed('app', 'DROP EXTENSION rolled back: so are new ones');

sql('app', 'CREATE FUNCTION wants_task(task jobqueue.tasks) RETURNS void LANGUAGE sql AS $$SELECT$$');
refused('app', 'DROP EXTENSION jobqueue', qr/because other objects depend on it/,
	'a function that takes jobqueue.tasks');
is_marked('app', 'a a2 b', 'each once');

# Dropped while a handler runs and others wait; created again in the same session. Ids start again: the new task has the
# number and the attempt of the one whose handler is still running, or was.
sql('app', 'DROP EXTENSION jobqueue CASCADE; CREATE EXTENSION jobqueue; DELETE FROM marks');
sql('app', $gated);
close_gate('app');
my $old = run_gated('app', 'old');
sql('app', "SELECT count(jobqueue.enqueue('gated', '{\"mark\": \"old too\"}')) FROM generate_series(1, 2)");
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'", 3, 'three busy workers');
my $session = $node->background_psql('app');
is_prompt(sub { $session->query_safe('DROP EXTENSION jobqueue') }, 'DROP EXTENSION does not wait for handlers to end');
$session->query_safe("CREATE EXTENSION jobqueue");
$session->query_safe("SET client_min_messages = error; $gated");
my $new = $session->query_safe(q{SELECT jobqueue.enqueue('gated', '{"mark": "new"}')});
is($new, $old, 'the new task has the number of the old one');
# Both may be behind the gate now. One handler, in a worker of the new extension, is enough to open it.
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $new", 'processing', 'the new task is running');
open_gate('app');
all_completed('app', 'created again: the task is completed');
is_marked('app', 'new', 'handlers of the extension that was dropped left no effect');
$session->query_safe('BEGIN; DROP EXTENSION jobqueue; CREATE EXTENSION jobqueue;');
$session->query_safe("$gated");
$session->query_safe(q{SELECT jobqueue.enqueue('gated', '{"mark": "newer"}'); COMMIT});
$session->quit;
all_completed('app', 'dropped and created in one transaction: the task is completed');
is_marked('app', 'new newer', 'and ran once');

sql('app', 'DROP EXTENSION jobqueue');
wait_sql($node, 'postgres',
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^jobqueue' AND datname = 'app'", 0,
	'after DROP EXTENSION no process of ours stays in the database');
sql('app', 'CREATE EXTENSION jobqueue; DELETE FROM marks');
sql('app', $gated);
sql('app', "SELECT jobqueue.enqueue('gated', '{\"mark\": \"last\"}')");
all_completed('app', 'and after CREATE EXTENSION they come');

# --------------------------------------------------------------------------------------------------------------------
# Who may not, stops nothing

sql('app', 'CREATE ROLE intruder LOGIN; GRANT CONNECT ON DATABASE app TO intruder; DELETE FROM marks');
close_gate('app');
run_gated('app', 'steady');
my $before = running('app');
my @as_intruder = (extra_params => [ '-U', 'intruder' ]);
my $offset = log_size($node);
refused('postgres', 'DROP DATABASE app', qr/must be owner of database app/, 'DROP DATABASE by an intruder',
	@as_intruder);
refused('app', 'DROP EXTENSION jobqueue', qr/must be owner of extension jobqueue/, 'DROP EXTENSION by an intruder',
	@as_intruder);
refused('app', 'DROP EXTENSION jobqueue CASCADE', qr/must be owner of extension jobqueue/, 'DROP EXTENSION … CASCADE',
	@as_intruder);
refused('app', 'DROP SCHEMA jobqueue CASCADE', qr/must be owner of schema jobqueue/, 'DROP SCHEMA by an intruder',
	@as_intruder);
refused('postgres', 'DROP DATABASE app WITH (FORCE)', qr/must be owner of database app/, 'DROP DATABASE WITH FORCE',
	@as_intruder);
refused('postgres', 'ALTER DATABASE app RENAME TO mine', qr/must be owner of database app/, 'RENAME by an intruder',
	@as_intruder);
refused('postgres', 'ALTER DATABASE app SET TABLESPACE pg_default', qr/must be owner of database app/,
	'SET TABLESPACE by an intruder',
	@as_intruder);
refused('postgres', 'CREATE DATABASE mine TEMPLATE app', qr/permission denied to create database/,
	'a copy by an intruder', @as_intruder);
sql('postgres', 'ALTER ROLE intruder CREATEDB');
refused('postgres', 'CREATE DATABASE mine TEMPLATE app', qr/permission denied to copy database "app"/,
	'a copy by somebody who may create databases, but not copy this one', @as_intruder);
# Commands that cannot succeed for reasons that can be seen before anybody is disturbed.
refused('postgres', 'BEGIN; DROP DATABASE app; COMMIT', qr/cannot run inside a transaction block/,
	'DROP DATABASE in a transaction');
refused('postgres', 'DROP DATABASE missing', qr/database "missing" does not exist/,
	'DROP DATABASE of one that is not there');
sql('postgres', 'DROP DATABASE IF EXISTS missing');
sql('postgres', "ALTER DATABASE app SET work_mem = '5MB'");
sql('postgres', 'CREATE DATABASE innocent');
is(running('app'), $before, 'none of this stopped the handler');
is_deeply([ log_matches($node, qr/jobqueue worker/, $offset) ], [], 'and no worker was heard of');
open_gate('app');
all_completed('app', 'its task is completed');

# Permitted commands that fail because another session is connected: tasks may be interrupted, but are given back.
for my $command ('DROP DATABASE app', 'ALTER DATABASE app RENAME TO other', 'CREATE DATABASE other TEMPLATE app',
	'ALTER DATABASE app SET TABLESPACE pg_global') {
	close_gate('app');
	run_gated('app', $command);
	my $client = $node->background_psql('app');
	$client->query_safe('SELECT 1');
	refused('postgres', $command, qr/is being accessed by other users|pg_global cannot be used/, $command);
	$client->quit;
	open_gate('app');
	all_completed('app', "$command: fails, the task is completed nevertheless");
}
close_gate('app');
run_gated('app', 'from within');
refused('app', 'DROP DATABASE app', qr/cannot drop the currently open database/, 'DROP DATABASE from within');
open_gate('app');
all_completed('app', 'DROP DATABASE from within: fails, the task is completed nevertheless');
is_marked('app', 'ALTER DATABASE app RENAME TO other ALTER DATABASE app SET TABLESPACE pg_global '
	. 'CREATE DATABASE other TEMPLATE app DROP DATABASE app from within steady', 'each once');

# --------------------------------------------------------------------------------------------------------------------
# RENAME, SET TABLESPACE, TEMPLATE

sub run_four {
	my ($database, $mark) = @_;
	close_gate($database);
	sql($database, "SELECT count(jobqueue.enqueue('gated', '{\"mark\": \"$mark\"}')) FROM generate_series(1, 6)");
	wait_sql($node, $database, "SELECT count(*) FROM jobqueue.worker_status WHERE state = 'running'", 4,
		"$database: four busy workers");
	wait_sql($node, 'postgres', <<SQL, 4, "$database: asleep in their handlers");
		SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'jobqueue worker' AND datname = '$database' AND wait_event = 'PgSleep'
SQL
}

sql('app', 'DELETE FROM marks');
run_four('app', 'r');
is_prompt(sub { sql('postgres', 'ALTER DATABASE app RENAME TO renamed') }, 'RENAME does not wait for busy workers');
open_gate('renamed');
all_completed('renamed', 'RENAME: interrupted tasks run again');
is_marked('renamed', 'r r r r r r', 'RENAME: each once');
sql('postgres', 'ALTER DATABASE renamed RENAME TO app');
sql('app', "SELECT jobqueue.enqueue('gated', '{\"mark\": \"s\"}')");
all_completed('app', 'RENAME back: served');

# A task that is interrupted by jobqueue is not charged.
close_gate('app');
my $once = run_gated('app', 'once', 'once');
sql('postgres', 'ALTER DATABASE app RENAME TO renamed');
open_gate('renamed');
wait_sql($node, 'renamed', "SELECT status FROM jobqueue.tasks WHERE id = $once", 'completed',
	'RENAME: an interrupted task runs again though it had one attempt only');
sql('postgres', 'ALTER DATABASE renamed RENAME TO app');
sql('app', "DELETE FROM jobqueue.tasks WHERE type = 'once'");

sql('app', 'DELETE FROM marks');
sql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''");
run_four('app', 't');
is_prompt(sub { sql('postgres', 'ALTER DATABASE app SET TABLESPACE elsewhere') },
	'SET TABLESPACE does not wait for busy workers');
open_gate('app');
all_completed('app', 'SET TABLESPACE: interrupted tasks run again');
is_marked('app', 't t t t t t', 'SET TABLESPACE: each once');

sql('app', 'DELETE FROM marks');
run_four('app', 'c');
$offset = log_size($node);
is_prompt(sub { sql('postgres', 'CREATE DATABASE copy TEMPLATE app') },
	'CREATE DATABASE … TEMPLATE does not wait for busy workers');
open_gate('app');
all_completed('app', 'TEMPLATE: interrupted tasks of the original run again');
is_marked('app', 'c c c c c c', 'TEMPLATE: each once');

open_gate('copy');
wait_sql($node, 'copy', 'SELECT bool_and(paused) FROM jobqueue.queue_status', 't', 'the copy says that it is paused');
sql('copy', "SELECT jobqueue.enqueue('gated', '{\"mark\": \"d\"}')");
# By now the copy has had every opportunity: the original is asked to do something meanwhile, and does it.
sql('app', "SELECT jobqueue.enqueue('gated', '{\"mark\": \"meanwhile\"}')");
all_completed('app', 'the original is served');
ok(wait_for(sub { log_matches($node, qr/adopt/, $offset) }), 'the log names the command that starts the copy');
is(sql('copy', "SELECT count(*) FROM jobqueue.tasks WHERE status IN ('pending', 'processing')"), 7,
	'nothing of the copy has run');
is_marked('copy', '', 'and nothing had an effect');
is(sql('copy', 'SELECT jobqueue.adopt()'), 't', 'adopt() says that it changed something');
all_completed('copy', 'after adopt() the tasks of the copy run, also those that were running when it was made');
is_marked('copy', 'c c c c c c d', 'each once');
is(sql('copy', 'SELECT bool_or(paused) FROM jobqueue.queue_status'), 'f', 'the copy is paused no more');
is(sql('copy', 'SELECT jobqueue.adopt()'), 'f', 'there is nothing more to adopt');
is(scalar(log_matches($node, qr/adopt/, $offset)), 1, 'it was said once');

# --------------------------------------------------------------------------------------------------------------------
# DROP DATABASE

sql('postgres', 'CREATE ROLE owner LOGIN; ALTER DATABASE copy OWNER TO owner; ALTER DATABASE app OWNER TO owner');
sql('copy', qq{SELECT count(jobqueue.enqueue('gated', '{"mark": "e"}')) FROM generate_series(1, 20)});
all_completed('copy', 'copy: idle workers');
is_prompt(sub { sql('postgres', 'DROP DATABASE copy', extra_params => [ '-U', 'owner' ]) },
	'DROP DATABASE with idle workers, by its owner');
run_four('app', 'x');
$offset = log_size($node);
is_prompt(sub { sql('postgres', 'DROP DATABASE app', extra_params => [ '-U', 'owner' ]) },
	'DROP DATABASE does not wait for busy workers, by its owner');
is(processes($node), 'launcher', 'no process is left');

# The same again, ten times: it must not depend on the moment.
my $failed = 0;
for my $round (1 .. 10) {
	create_queue($node, 'brief');
	sql('brief', $gated);
	sql('brief', "INSERT INTO gate VALUES (true)") if $round % 2;
	sql('brief', qq{SELECT count(jobqueue.enqueue('gated', '{"mark": "e"}')) FROM generate_series(1, 20)});
	my ($status) = $node->psql('postgres', 'DROP DATABASE brief');
	if ($status != 0) {
		$failed++;
		sql('postgres', 'DROP DATABASE brief WITH (FORCE)');
	}
}
is($failed, 0, 'DROP DATABASE right after the tasks were enqueued');

create_queue($node, 'app');
sql('app', $gated);
sql('app', "SELECT jobqueue.enqueue('gated')");
all_completed('app', 'a new database with an old name is served');
run_four('app', 'y');
is_prompt(sub { sql('postgres', 'DROP DATABASE app WITH (FORCE)') }, 'nor does WITH (FORCE)');

is(unexpected_in_log($node,
	qr/restored\ or\ copied\ database|^\S+\ \S+\ \S+\ \[\d+\]\ jobqueue\ (worker|scheduler):
		\ (ERROR|FATAL|WARNING):\ .*(dropped|removed|gone|does\ not\ exist|renamed)/ix),
	'', 'nothing unexpected in the log');
cmp_ok(scalar(log_matches($node, qr/jobqueue (worker|scheduler): /)), '<', 150, 'not many words');
$node->stop;
done_testing();
