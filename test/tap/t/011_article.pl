# The table is a table: what any article about queues in PostgreSQL shows works on jobqueue.tasks, as it stands there,
# by roles that have been granted access and by nobody special.
#
# - eight clients claim with UPDATE … WHERE id = (SELECT … FOR UPDATE SKIP LOCKED), in one transaction with the work and
#   in two, while others INSERT and COPY, and while the scheduler moves what is finished: no error of any kind (40001
#   would come from rows that change their partition), each task is claimed once, and the claim's row is what RETURNING
#   showed
# - without any handler in the database: it is archived all the same, with finished_at and updated_at as of the UPDATE
# - failed ones end in tasks_failed, completed and cancelled ones in the history
# - the same clients beside workers of the server, which take tasks from the same backlog
# - a claim by hand has no lease: it is not taken back, not even after a restart
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('article', 'jobqueue.poll_interval' => '100ms', autovacuum_naptime => '1s');
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
	CREATE EXTENSION jobqueue;
	CREATE ROLE shop LOGIN;
	CREATE ROLE clerk LOGIN;
	SELECT jobqueue.grant_access('shop', 'producer');
	SELECT jobqueue.grant_access('clerk', 'consumer');
	CREATE TABLE claims (task bigint NOT NULL, payload jsonb, before text, attempts int, what text NOT NULL,
		at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE TABLE done (task bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
	GRANT SELECT, INSERT ON claims, done TO PUBLIC;
SQL

my $dir = PostgreSQL::Test::Utils::tempdir;

sub script {
	my ($name, $text) = @_;
	append_to_file("$dir/$name.sql", $text);
	return "$dir/$name.sql";
}

my $claim = <<'SQL';
\set id 0
UPDATE jobqueue.tasks SET status = 'processing', processed_at = now()
WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' AND type = 'order'
	ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING * \aset
SQL
# The first one exactly as the articles have it; the others with what their authors like to add.
my $autocommit = script('autocommit', <<"SQL");
@{[ $claim =~ s/ AND type = 'order'//r ]}
\\if :id > 0
INSERT INTO claims (task, payload, before, attempts, what) VALUES (:id, :payload, :status, :attempts, 'autocommit');
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id;
INSERT INTO done VALUES (:id);
\\endif
SQL
my $one_transaction = script('one_transaction', <<"SQL");
BEGIN;
@{[ $claim =~ s/processed_at = now\(\)/processed_at = now(), updated_at = now()/r ]}
\\if :id > 0
INSERT INTO claims (task, payload, before, attempts, what)
	VALUES (:id, :payload, :status, :attempts, 'one transaction');
UPDATE jobqueue.tasks SET status = 'completed', updated_at = now() WHERE id = :id RETURNING *;
INSERT INTO done VALUES (:id);
\\endif
COMMIT;
SQL
my $failing = script('failing', <<"SQL");
$claim
\\if :id > 0
INSERT INTO claims (task, payload, before, attempts, what) VALUES (:id, :payload, :status, :attempts, 'failed');
UPDATE jobqueue.tasks SET status = 'failed' WHERE id = :id;
INSERT INTO done VALUES (:id);
\\endif
SQL
my $insert = script('insert', <<'SQL');
\set n random(1, 3)
INSERT INTO jobqueue.tasks (type, payload) SELECT 'order', jsonb_build_object('from', 'insert', 'n', n) FROM
	generate_series(1, :n) n;
SQL

# Starts pgbench. Its payloads are strings, which \aset pastes in unquoted: hence the extended protocol.
sub pgbench {
	my ($role, $clients, $transactions, @scripts) = @_;
	my %run = (transactions => $clients * $transactions, out => '', what => "$role: $clients clients");
	$run{h} = IPC::Run::start(
		[ 'pgbench', '-n', '-M', 'extended', '-U', $role, '-h', $node->host, '-p', $node->port, '-c', $clients, '-j', 1,
			'-t', $transactions, (map { ('-f', $_) } @scripts), 'app' ],
		'<', '/dev/null', '>', \$run{out}, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%run;
}

sub finish_pgbench {
	my ($run, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$run->{h}->finish;
	my $ok = !$run->{h}->result(0) && $run->{out} =~ m{actually processed: $run->{transactions}/$run->{transactions}\b}
	  && $run->{out} =~ /failed transactions: 0 /;
	ok($ok, "$name: $run->{what}, no error") or diag substr($run->{out}, -3000);
}

my $offset = log_size($node);

sub no_error_in_log {
	my ($name, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @lines = log_matches($node, qr/ (?:WARNING|ERROR|FATAL|PANIC):  /, $offset);
	@lines = grep { !/$expected/ } @lines if $expected;
	is(join("\n", @lines), '', "$name: no error and no warning in the log");
}

# --------------------------------------------------------------------------------------------------------------------
# Producers and consumers at once, no handler anywhere

my @producers = (pgbench('shop', 2, 400, $insert));
my @consumers = (pgbench('clerk', 8, 350, "$autocommit\@4", "$one_transaction\@4", "$failing\@1"));
my $copied = 0;
for my $round (1 .. 10) {
	my $rows = join '', map { qq(order\t{"from": "copy", "n": $_}\tshop\n) } 1 .. 50;
	# a superuser: COPY FROM and row-level security exclude each other
	$node->safe_psql('app', "COPY jobqueue.tasks (type, payload, created_by) FROM STDIN;\n$rows\\.\n");
	$copied += 50;
}
wait_sql($node, 'app', <<'SQL', 't', 'tasks are archived while others still wait');
	SELECT EXISTS (SELECT 1 FROM jobqueue.tasks WHERE slot BETWEEN 1 AND 8)
		AND EXISTS (SELECT 1 FROM jobqueue.tasks WHERE slot = 0 AND status IN ('pending', 'processing'))
SQL
finish_pgbench($_, 'producers beside consumers') for @producers;
finish_pgbench($_, 'consumers beside producers') for @consumers;

my $total = $node->safe_psql('app', 'SELECT count(*) FROM jobqueue.tasks');
is($node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE payload->>'from' = 'copy'"), $copied,
	'all that were copied are there');
my $rounds = 0;
while ($rounds++ < 20 && $node->safe_psql('app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'pending'") > 0) {
	finish_pgbench(pgbench('clerk', 8, 60, "$autocommit\@4", "$one_transaction\@4", "$failing\@1"), 'the rest');
}
is($node->safe_psql('app', 'SELECT count(*) FROM jobqueue.tasks'), $total, 'no task came or went');
wait_sql($node, 'app', 'SELECT count(*) FROM jobqueue.tasks_live', 0,
	'all were moved out of the live ones, though nothing has a handler');

is($node->safe_psql('app', 'SELECT count(*), count(DISTINCT task) FROM claims'), "$total|$total",
	'each task was claimed once');
is($node->safe_psql('app', 'SELECT count(*) FROM claims WHERE before <> $$processing$$ OR attempts <> 0'), 0,
	'RETURNING shows the claim; no attempt is counted');
is($node->safe_psql('app',
	'SELECT count(*) FROM jobqueue.tasks t JOIN claims c ON c.task = t.id WHERE t.payload = c.payload'), $total,
	'each with its own payload');
is($node->safe_psql('app', <<'SQL'), 0, 'each is once where its status belongs');
	SELECT count(*) FROM jobqueue.tasks t JOIN claims c ON c.task = t.id
	WHERE CASE c.what WHEN 'failed' THEN t.status <> 'failed' OR t.tableoid <> 'jobqueue.tasks_failed'::regclass
		ELSE t.status <> 'completed' OR t.tableoid::regclass::text !~ '^jobqueue.tasks_history_[1-8]$' END
SQL
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM jobqueue.tasks_failed'), '>', 20, 'some have failed');
# The time is set by the UPDATE itself, not by the scheduler that archives it later; archiving does not change it.
is($node->safe_psql('app', <<'SQL'), '', 'finished_at and updated_at are the time of the UPDATE');
	SELECT string_agg(format('%s %s: created %s processed %s updated %s finished %s done %s', c.what, t.id,
		t.created_at,
		t.processed_at, t.updated_at, t.finished_at, d.at), E'\n')
	FROM (SELECT * FROM jobqueue.tasks) t JOIN claims c ON c.task = t.id JOIN done d ON d.task = t.id
	WHERE NOT coalesce(t.finished_at >= t.processed_at AND t.finished_at <= d.at AND t.updated_at >= t.processed_at
		AND t.updated_at <= d.at AND t.processed_at > t.created_at
		AND (c.what = 'one transaction' OR t.finished_at >= c.at AND t.updated_at >= c.at), false)
SQL
is($node->safe_psql('app', "SELECT string_agg(DISTINCT created_by, ' ') FROM jobqueue.tasks"), 'shop',
	'created_by is the producer');
no_error_in_log('articles');

# --------------------------------------------------------------------------------------------------------------------
# One by one: each way to end, and what others see of it

sub insert_task {
	return $node->safe_psql('app', q{INSERT INTO jobqueue.tasks (type) VALUES ('order') RETURNING id},
		extra_params => [ '-U', 'shop' ]);
}

my %ended;
my $clerk = $node->background_psql('app', extra_params => [ '-U', 'clerk' ]);
for my $status ('completed', 'failed', 'cancelled') {
	my $id = $ended{$status} = insert_task();
	$clerk->query_safe("UPDATE jobqueue.tasks SET status = 'processing', processed_at = now() WHERE id = $id");
	is($clerk->query_safe('SELECT count(*) FROM jobqueue.claim(NULL, 10)'), 0,
		"$status: claim() leaves what is claimed by hand");
	my ($out, $err) = ('', '');
	my $waiter = IPC::Run::start(
		[ 'psql', '-XAtq', '-U', 'clerk', '-d', $node->connstr('app'), '-c',
			"SELECT status FROM jobqueue.wait_for($id, '30 s')" ],
		'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	wait_sql($node, 'app',
		"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%wait_for($id,%' AND state = 'active' AND pid <> "
			. "pg_backend_pid() AND wait_event IS NOT NULL", 1,
		"$status: somebody waits for it");
	$clerk->query_safe("UPDATE jobqueue.tasks SET status = '$status' WHERE id = $id");
	is_prompt(sub { $waiter->finish }, "$status: wait_for learns of it");
	is("$out$err", "$status\n", "$status: and says so");
	wait_sql($node, 'app', "SELECT slot <> 0 FROM jobqueue.tasks WHERE id = $id", 't', "$status: archived");
}
is($node->safe_psql('app',
	"SELECT status, finished_at IS NOT NULL, finished_at <= now(), slot BETWEEN 1 AND 8 FROM jobqueue.tasks WHERE id "
		. "= $ended{cancelled}"),
	'cancelled|t|t|t', 'cancelled by hand: in the history');
is($node->safe_psql('app',
	"SELECT status, finished_at IS NOT NULL, slot, attempts FROM jobqueue.tasks WHERE id = $ended{failed}"),
		'failed|t|-1|0',
	'failed by hand: among the failed ones');
is($node->safe_psql('app', "SELECT jobqueue.retry($ended{failed})"), 't', 'and can be retried');
is($node->safe_psql('app', "SELECT status, finished_at IS NULL, slot FROM jobqueue.tasks WHERE id = $ended{failed}"),
	'pending|t|0', 'it waits again');

# A consumer's rights end at the columns that the pattern needs; what is wrong is refused with an SQLSTATE that says so.
no_error_in_log('one by one');
my $held = insert_task();

sub refused {
	my ($role, $sql, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (undef, undef, $err) = $node->psql('app', "\\set VERBOSITY verbose\n$sql", extra_params => [ '-U', $role ]);
	like($err, qr/ERROR:  $sqlstate:/, $name);
}
refused('clerk', "UPDATE jobqueue.tasks SET type = 'other' WHERE id = $held", '42501', 'a consumer changes no type');
refused('clerk', "UPDATE jobqueue.tasks SET attempts = 0, slot = 3 WHERE id = $held", '42501', 'and no partition');
refused('clerk', "DELETE FROM jobqueue.tasks WHERE id = $held", '42501', 'and deletes nothing');
refused('clerk', "UPDATE jobqueue.tasks SET status = 'done' WHERE id = $held", '23514', 'there is no such status');
refused('clerk', "UPDATE jobqueue.tasks SET status = NULL WHERE id = $held", '23502', 'status must not be null');
refused('shop', "INSERT INTO jobqueue.tasks (type, status) VALUES ('order', 'completed')", '42501',
	'a producer forges no status');
refused('shop', "UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $held", '42501', 'and completes nothing');

# A claim by hand has no lease: not given back, not by a restart either, and by an expiry least of all.
$offset = log_size($node);
$clerk->query_safe("UPDATE jobqueue.tasks SET status = 'processing', processed_at = now() WHERE id = $held");
$clerk->quit;
$node->restart;
my $clock = $node->safe_psql('app', "SELECT jobqueue.enqueue('tick', delay => '0.5 s')");
wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $clock", 'pending',
	'the scheduler has done its rounds');
is($node->safe_psql('app',
	"SELECT status, attempts, lease_expires_at IS NULL, finished_at IS NULL FROM jobqueue.tasks WHERE id = $held"),
		'processing|0|t|t',
	'a claim by hand is left alone, over a restart, too');
$node->safe_psql('app', "UPDATE jobqueue.tasks SET status = 'completed' WHERE id = $held",
	extra_params => [ '-U', 'clerk' ]);
wait_sql($node, 'app', "SELECT status, slot BETWEEN 1 AND 8 FROM jobqueue.tasks WHERE id = $held", 'completed|t',
	'and archived when it is finished');

# --------------------------------------------------------------------------------------------------------------------
# Beside workers of the server

$node->safe_psql('app', <<'SQL');
	TRUNCATE claims, done;
	SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE status = 'pending';
	CREATE FUNCTION handle(task jobqueue.tasks) RETURNS void LANGUAGE sql AS
		'INSERT INTO public.claims (task, payload, before, attempts, what)
			VALUES (task.id, task.payload, task.status, task.attempts, ''handler'')';
	SELECT jobqueue.register_handler('order', 'handle(jobqueue.tasks)');
	SELECT jobqueue.pause_queue('default');
	INSERT INTO jobqueue.tasks (type, payload) SELECT 'order', to_jsonb(n) FROM generate_series(1, 3000) n;
SQL
my $run = pgbench('clerk', 8, 80, "$autocommit\@4", "$one_transaction\@4");
wait_sql($node, 'app', 'SELECT count(*) > 20 FROM claims', 't', 'clients are at it');
$node->safe_psql('app', "SELECT jobqueue.resume_queue('default')");
finish_pgbench($run, 'consumers beside workers');
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks_live", 0, 'all are done');
is($node->safe_psql('app', 'SELECT count(*), count(DISTINCT task), count(DISTINCT payload) FROM claims'),
	'3000|3000|3000', 'each task by one of them');
is($node->safe_psql('app', <<'SQL'), '0|t|t', 'all completed, by both kinds');
	SELECT count(*) FILTER (WHERE t.status <> 'completed' OR t.attempts <> (c.what = 'handler')::int OR t.finished_at
		IS NULL),
		count(*) FILTER (WHERE c.what = 'handler') > 100, count(*) FILTER (WHERE c.what <> 'handler') > 100
	FROM jobqueue.tasks t JOIN claims c ON c.task = t.id
SQL
no_error_in_log('beside workers',
	qr/terminating\ background\ worker\ "jobqueue|terminating\ connection\ due\ to\ administrator\ command
		|the\ database\ system\ is\ (?:shutting\ down|starting\ up)/x);

$node->stop;
done_testing();
