# What has become of tasks survives pg_dump and pg_upgrade: failures, crashes, dead letters, progress, policies. They
# come from an older server, if one is at hand. See 009_dump_restore.pl for copies as such.
#
# - tasks in every state a task can be in, restored into another cluster from each format: equal row for row, and paused
# - after adopt() they go on from where they were: failures are added to, the third crash of three is the last, a dead
#   letter returns, an outside claim can be completed, a unique key is still taken
# - after pg_upgrade, by copy and by link, everything is as it was, too, and goes on without a command: it is the same
#   installation
use strict;
use warnings;
use File::Basename;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('origin', older_server(), autovacuum => 'off', 'jobqueue.max_workers' => 3);
my $dir = PostgreSQL::Test::Utils::tempdir;
create_queue($node, 'app');
create_ledger($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION 'this is "broken" é'
			USING ERRCODE = 'AB123', DETAIL = 'a detail', HINT = E'a hint\nof two lines';
	END $$;
	CREATE FUNCTION sleeps(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM jobqueue.set_progress(0.25, 'a quarter');
		PERFORM pg_sleep((payload->>'seconds')::float8);
		PERFORM jobqueue.snooze('1 day') WHERE payload ? 'snooze';
	END $$;
	CREATE FUNCTION bad_leave(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION patience(attempt integer, error text) RETURNS interval LANGUAGE sql AS $$SELECT '1 day'::interval$$;
	SELECT jobqueue.register_handler('fails', 'fails(jsonb)', max_attempts => 3, backoff => 'fixed', first_delay => '0',
		jitter => 0,
		discard_sqlstates => '{XX,22012}');
	SELECT jobqueue.register_handler('waits', 'fails(jsonb)', backoff_function => 'patience(integer, text)',
		max_delay => '3 days');
	SELECT jobqueue.register_handler('dies', 'fails(jsonb)', max_attempts => 1, dead_letter_queue => 'dead letters');
	SELECT jobqueue.register_handler('sleeps', 'sleeps(jsonb)', timeout => '1 hour');
	SELECT jobqueue.register_handler('leaves', 'bad_leave(jsonb)');

	SELECT jobqueue.enqueue('note', metadata => '"completed"');
	SELECT jobqueue.enqueue('fails', metadata => '"failed"');
	SELECT jobqueue.enqueue('waits', metadata => '"waits to retry"');
	SELECT jobqueue.enqueue('dies', metadata => '"dead letter"');
	SELECT jobqueue.enqueue('sleeps', '{"seconds": 0, "snooze": 1}', metadata => '"snoozed"');
	SELECT jobqueue.enqueue('sleeps', '{"seconds": 0.5}', timeout => '0.1 s', max_attempts => 1,
		metadata => '"timed out"');
	SELECT jobqueue.enqueue('leaves', metadata => '"crashed"');
SQL
wait_sql($node, 'app',
	"SELECT string_agg(metadata->>0 || ': ' || status, ', ' ORDER BY metadata->>0) FROM jobqueue.tasks
	WHERE status <> 'processing' AND (status <> 'pending' OR origin_queue IS NOT NULL)",
	'completed: completed, crashed: failed, dead letter: pending, failed: failed, snoozed: scheduled, timed out: '
		. 'failed, waits to retry: scheduled',
	'tasks with a history');
$node->safe_psql('app', <<'SQL');
	SELECT jobqueue.cancel(jobqueue.enqueue('note', delay => '1 day', metadata => '"cancelled"'), 'no "need" é');
	SELECT jobqueue.enqueue('note', delay => '1 day', timeout => '1 month 2 days 03:04:05.6',
		metadata => '"scheduled"');
	SELECT jobqueue.pause_queue('held');
	SELECT jobqueue.enqueue('note', queue => 'held', metadata => '"pending"');
	INSERT INTO jobqueue.tasks (type, status, metadata) VALUES ('note', 'blocked', '"blocked"');
	INSERT INTO jobqueue.tasks (type, queue, unique_key, group_key, metadata)
		VALUES ('note', 'held', 'a "key"', 'a group', '"unique"');
	SELECT jobqueue.cancel(id) FROM jobqueue.enqueue_unique('note', queue => 'held', unique_key => 'a "key"',
		unique_for => '1 day', metadata => '"period"');
	SELECT jobqueue.enqueue('leaves', queue => 'held', metadata => '"crashed twice"');
	UPDATE jobqueue.tasks SET crashes = 2, attempts = 2 WHERE metadata = '"crashed twice"';
	SELECT jobqueue.enqueue('outside', queue => 'outside', metadata => '"claimed"');
	SELECT jobqueue.set_progress(id, attempts, 0.75, 'nearly') FROM jobqueue.claim('outside', lease => '1 day',
		claimed_by => 'somebody é');
	SELECT jobqueue.enqueue('outside', queue => 'outside', metadata => '"claimed by hand"');
	UPDATE jobqueue.tasks SET status = 'processing' WHERE metadata = '"claimed by hand"';
	SELECT jobqueue.enqueue('sleeps', '{"seconds": 3600}', metadata => '"running"');
SQL
wait_sql($node, 'app', "SELECT progress_message FROM jobqueue.running_tasks WHERE type = 'sleeps'", 'a quarter',
	'one is running');
is($node->safe_psql('app',
	"SELECT metadata->>0, status, crashes, jsonb_array_length(failures), origin_queue, progress FROM jobqueue.tasks
	ORDER BY (metadata->>0) COLLATE \"C\""), <<'ROWS' =~ s/\n\z//r, 'every state');
blocked|blocked|0|||
cancelled|cancelled|0|||
claimed|processing|0|||0.75
claimed by hand|processing|0|||
completed|completed|0|||
crashed|failed|3|3||
crashed twice|pending|2|||
dead letter|pending|0|1|default|
failed|failed|0|3||
pending|pending|0|||
period|cancelled|0|||
running|processing|0|||
scheduled|scheduled|0|||
snoozed|scheduled|0|||
timed out|failed|0|1||
unique|pending|0|||
waits to retry|scheduled|0|1||
ROWS

# Everything that must be kept, as text; each leaf by itself.
my @tables = ('handlers ORDER BY type', 'queues ORDER BY queue', 'history_ring',
	'unique_keys ORDER BY type, unique_key', 'tasks_live ORDER BY id', 'tasks_failed ORDER BY id',
	map { "tasks_history_$_ ORDER BY id" } 1 .. 8);

sub contents {
	my ($where, $database) = @_;
	return $where->safe_psql($database, 'SELECT last_value, is_called FROM jobqueue.tasks_id_seq;' . join '', map {
		my ($table) = /^(\w+)/;
		"SELECT '$table', t FROM (SELECT * FROM jobqueue.$_) t;"
	} @tables);
}

# The first line that differs.
sub difference {
	my ($got, $want) = map { [ split /\n/ ] } @_;
	for my $n (0 .. (@$got > @$want ? $#$got : $#$want)) {
		my ($one, $two) = map { $_->[$n] // '(nothing)' } $got, $want;
		return "line $n: got $one, expected $two" if $one ne $two;
	}
	return '';
}

my $expected = contents($node, 'app');
like($expected, qr/a hint\\\\nof two lines/, 'what is compared is complete');
# A parallel restore may bring tasks before the row that pauses the copy, so at first there is no process that looks at
# them.
my $other = start_node('elsewhere', autovacuum => 'off', shared_preload_libraries => "''", max_worker_processes => 20);
note 'from version ' . $node->pg_version . ' to ' . $other->pg_version;
# Minor releases since November 2026 mark columns in a way that older ones of other versions cannot read.
my ($marked, $known) = map {
	$_->safe_psql('postgres', "SELECT count(*) > 0 FROM pg_attribute WHERE attoptions::text ~ 'pg_attver'") eq 't'
} $node, $other;
my $fits = $known || !$marked;
my ($pg_dump, $pg_upgrade) = programs(qw(pg_dump pg_upgrade));
$pg_dump = 'pg_dump' unless $fits; # that of the older server
my %files = map { ($_ => "$dir/$_") } qw(plain custom directory);
$node->command_ok([ $pg_dump, '-f', $files{plain}, 'app' ], 'pg_dump');
$node->command_ok([ $pg_dump, '-Fc', '-f', $files{custom}, 'app' ], 'pg_dump -Fc');
$node->command_ok([ $pg_dump, '-Fd', '-j', '4', '-f', $files{directory}, 'app' ], 'pg_dump -Fd -j 4');
is(difference(contents($node, 'app'), $expected), '', 'nothing has changed meanwhile');

my %restore = (
	plain => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $files{plain}, '-d' ],
	custom => [ 'pg_restore', '-e', '-j', '4', $files{custom}, '-d' ],
	directory => [ 'pg_restore', '-e', '-j', '4', $files{directory}, '-d' ]);
for my $database (sort keys %restore) {
	$other->safe_psql('postgres', "CREATE DATABASE $database");
	$other->command_ok([ @{ $restore{$database} }, $database ], "restored: $database");
	is(difference(contents($other, $database), $expected), '', "$database: every row as it was");
	is($other->safe_psql($database, 'SELECT bool_and(paused) FROM jobqueue.queue_status'), 't', "$database: paused");
}
$other->append_conf('postgresql.conf',
	"shared_preload_libraries = 'jobqueue'\njobqueue.max_workers = 10\njobqueue.poll_interval = 100ms");
$other->restart;
ok(wait_for(sub { log_matches($other, qr/WARNING: .*"(?:plain|custom|directory)".* restored or copied/) >= 3 }),
	'all have been looked at');
for my $database (sort keys %restore) {
	is(difference(contents($other, $database), $expected), '', "$database: still as it was");
}

# Goes on where it was.
sub goes_on {
	my ($where, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = sub { $where->safe_psql($database, "SELECT id FROM jobqueue.tasks WHERE metadata = '\"$_[0]\"'") };
	my $row = sub {
		my ($name, $columns, $want, $what) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		wait_sql($where, $database, "SELECT $columns FROM jobqueue.tasks WHERE metadata = '\"$name\"'", $want,
			"$database: $what");
	};
	$row->('running', 'status, attempts, crashes, failures IS NULL, max_attempts - attempts', 'processing|2|0|t|19',
		'what was running runs again, charged nothing');
	is($where->safe_psql($database, 'SELECT jobqueue.complete(' . $id->('claimed') . ', 1, \'"done"\')'), 't',
		"$database: an outside worker can end its claim");
	$row->('claimed', 'status, result, claimed_by, progress', 'completed|"done"|somebody é|0.75',
		'... which is completed');
	is($where->safe_psql($database, 'SELECT jobqueue.retry(' . $id->('failed') . ')'), 't',
		"$database: what has failed can be tried again");
	$row->('failed',
		"status, jsonb_array_length(failures), failures->3->>'attempt', failures->3->>'hint' = failures->0->>'hint'",
			'failed|4|4|t',
		'... and adds to its failures');
	is($where->safe_psql($database, 'SELECT jobqueue.retry(' . $id->('waits to retry') . ')'), 't',
		"$database: so can what waits");
	$row->('waits to retry', "status, attempts, run_at - updated_at BETWEEN '23 hours' AND '25 hours'", 'scheduled|2|t',
		'... by its own back-off function');
	is($where->safe_psql($database, 'SELECT jobqueue.retry(' . $id->('dead letter') . ')'), 't',
		"$database: and a dead letter");
	$row->('dead letter', 'status, queue, origin_queue, jsonb_array_length(failures)', 'pending|dead '
		. 'letters|default|2', '... which fails again');
	is($where->safe_psql($database,
		'SELECT bool_and(jobqueue.retry(id)) FROM jobqueue.tasks WHERE metadata IN (\'"snoozed"\', \'"scheduled"\')'),
			't',
		"$database: scheduled tasks can be hurried");
	$row->('scheduled', 'status, timeout', 'completed|1 mon 2 days 03:04:05.6', '... and run');
	$row->('snoozed', 'status, attempts, max_attempts - attempts', 'scheduled|2|20', '... or snooze again');
	is(($where->psql($database, q[INSERT INTO jobqueue.tasks (type, unique_key) VALUES ('note', 'a "key"')]))[0], 3,
		"$database: a unique key is still taken");
	is($where->safe_psql($database,
		q[SELECT is_new FROM jobqueue.enqueue_unique('note', unique_key => 'a "key"', unique_for => '1 hour')]), 'f',
		"$database: and one that was taken for a period");
	is($where->safe_psql($database, "SELECT jobqueue.resume_queue('held')"), 't',
		"$database: a paused queue is resumed");
	$row->($_, 'status', 'completed', "$_: runs") for 'pending', 'unique';
	$row->('crashed twice', 'status, crashes, attempts, last_sqlstate', 'failed|3|3|JQ005',
		'the third crash is the last');
	$row->('cancelled', 'status, last_error', 'cancelled|no "need" é', 'what was cancelled stays so');
	$row->('blocked', 'status', 'blocked', 'what was blocked stays so');
	$row->('claimed by hand', 'status', 'processing', 'so does what was claimed by hand');
	$row->('crashed', 'status, crashes', 'failed|3', 'and what had crashed too often');
	is($where->safe_psql($database, 'SELECT jobqueue.cancel(' . $id->('running') . ')'), 't',
		"$database: what runs is cancelled");
}

for my $database (sort keys %restore) {
	is($other->safe_psql($database, 'SELECT jobqueue.adopt()'), 't', "$database: adopt()");
	goes_on($other, $database);
}
$other->stop;

# --------------------------------------------------------------------------------------------------------------------
# pg_upgrade: from one version to the same is an upgrade like any other. The link comes last: then the old server can
# no longer be started.

$node->stop;
my $old_bindir = $node->config_data('--bindir');
my $new_bindir = dirname($pg_upgrade);
SKIP: {
	skip 'this minor release cannot read what that of the older server has written', 1 unless $fits;
}
for my $mode ($fits ? ('copy', 'link') : ()) {
	my @checksums = $other->pg_version >= 18 ? (extra => ['--no-data-checksums']) : ();
	my $upgraded = new_node("by_$mode", autovacuum => 'off', 'jobqueue.poll_interval' => '100ms',
		'jobqueue.max_workers' => 3, init => {@checksums});
	my $where = PostgreSQL::Test::Utils::tempdir;
	chdir $where or die $!;
	my @command = ($pg_upgrade, '--no-sync', $mode eq 'link' ? '--link' : (), '-d', $node->data_dir, '-D',
		$upgraded->data_dir, '-b', $old_bindir, '-B', $new_bindir, '-s', $where, '-p', $node->port, '-P',
		$upgraded->port);
	$upgraded->command_ok(\@command, "pg_upgrade, $mode");
	$upgraded->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
	$upgraded->start;
	wait_sql($upgraded, 'app', "SELECT status FROM jobqueue.tasks WHERE metadata = '\"running\"'", 'pending',
		"$mode: what was running waits");
	is(difference(map { join "\n", grep { !/running/ } split /\n/ } contents($upgraded, 'app'), $expected), '',
		"$mode: every other row as it was");
	$upgraded->append_conf('postgresql.conf', 'jobqueue.max_workers = 3');
	$upgraded->reload;
	is($upgraded->safe_psql('app', 'SELECT jobqueue.adopt()'), 'f', "$mode: there is nothing to adopt");
	goes_on($upgraded, 'app');
	is(unexpected_in_log($upgraded, qr/broken|leaving|canceling statement/), '',
		"$mode: nothing unexpected in the log");
	$upgraded->stop;
}
done_testing();
