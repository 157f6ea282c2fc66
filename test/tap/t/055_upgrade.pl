# The library and the extension in a database have different versions: what everybody has between the installation of a
# package and ALTER EXTENSION UPDATE, and what some have after a mistake. 0.1.0 is built from the git history.
#
# - old library, new files: CREATE EXTENSION, ALTER EXTENSION UPDATE say that the library is older, and change nothing
# - new library, old extension: each function works as it does later, or says which versions there are, and what to do;
#   nothing runs, nothing is lost, the log has one message; after ALTER EXTENSION UPDATE everything runs, without a
#   restart, and in sessions that have met the error
# - old library, new extension: no task is added or changed, nothing runs, and nothing is lost
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'needs the git history' unless has_past_library('0.1.0');

my $path = copy_installation();
install_version($path, '0.1.0');
my $node = start_node('versions', install_path => $path, autovacuum => 'off', max_worker_processes => 16,
	'jobqueue.poll_interval' => '200ms');
create_queue($node, 'app');
create_ledger($node, 'app');
is($node->safe_psql('app', 'SELECT jobqueue.version()'), '0.1.0', 'the old version');

# Runs statements. Returns "works", or the SQLSTATE and the message.
sub outcome {
	my ($sql, $database) = @_;
	my (undef, undef, $error) = $node->psql($database // 'app', "\\set VERBOSITY verbose\n$sql");
	return $error =~ /(?:ERROR|FATAL|server closed).*?(\w{5}: .*)/ ? $1 : $error =~ /closed/ ? 'crash' : 'works';
}

sub is_completed {
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT status FROM jobqueue.tasks WHERE id = $id", 'completed', $name);
}

# --------------------------------------------------------------------------------------------------------------------
# Tasks of all kinds, in a queue that nobody empties

$node->safe_psql('app', <<'SQL');
	CREATE ROLE someone LOGIN;
	CREATE TABLE watched (id integer);
	CREATE TRIGGER watched AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('note');
	CREATE FUNCTION fail(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;
	SELECT jobqueue.register_handler('fail', 'fail(jsonb)', max_attempts => 1);
	SELECT jobqueue.enqueue('fail');
	SELECT jobqueue.enqueue('note');
	SELECT jobqueue.enqueue('outside', queue => 'out', metadata => '{"n": 1}') FROM generate_series(1, 20);
	SELECT jobqueue.enqueue_unique('outside', queue => 'out', unique_key => 'k', unique_for => '1 day');
	SELECT jobqueue.enqueue_flow('{"first": {"type": "outside", "queue": "out", "priority": -1},
		"then": {"type": "note", "after": ["first"]}}');
	SELECT jobqueue.cancel(jobqueue.enqueue('outside', queue => 'out', run_at => '2100-01-01'));
	SELECT jobqueue.enqueue('outside', queue => 'out', run_at => '2100-01-01');
	SELECT jobqueue.schedule('often', '1 second', 'note');
	SELECT jobqueue.schedule('never', '0 0 1 1 *', 'note');
SQL
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'failed'", 1, 'a task has failed');
wait_sql($node, 'app', 'SELECT count(*) > 2 FROM ledger', 't', 'tasks have run, also those of a schedule');
my @claimed = split /\n/, $node->safe_psql('app', "SELECT id FROM jobqueue.claim('out', 10, lease => '1 hour')");
is(scalar(@claimed), 10, 'tasks are claimed from outside');
my $first = shift @claimed;

# --------------------------------------------------------------------------------------------------------------------
# The old library is loaded, and the files are new

install_version($path);
my $older = '55000: version 0.1.0 of the library of jobqueue is loaded, which is older than';
like(outcome('ALTER EXTENSION jobqueue UPDATE'), qr/^\Q$older\E/, 'old library: no update');
$node->safe_psql('postgres', 'CREATE DATABASE empty');
like(outcome('CREATE EXTENSION jobqueue', 'empty'), qr/^\Q$older\E/, 'old library: no new installation');
my (undef, undef, $error) = $node->psql('app', 'ALTER EXTENSION jobqueue UPDATE');
like($error, qr/HINT:  .*Restart the server.*ALTER EXTENSION jobqueue UPDATE/s, 'old library: and what to do');
is($node->safe_psql('app', "SELECT extversion FROM pg_extension WHERE extname = 'jobqueue'"), '0.1.0',
	'old library: the extension is as it was');
is_completed($node->safe_psql('app', "SELECT jobqueue.enqueue('note')"), 'old library: tasks go on');

# --------------------------------------------------------------------------------------------------------------------
# The new library, and the extension is old

my @ids = map { $node->safe_psql('app', "SELECT jobqueue.enqueue('note')") } 1 .. 3;
$node->stop;
my $offset = log_size($node);
$node->start;
my $version = $node->safe_psql('app', 'SELECT jobqueue.version()');
isnt($version, '0.1.0', 'the new library');
create_queue($node, 'clock');
$node->safe_psql('clock', <<'SQL');
	CREATE FUNCTION tick(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
	SELECT jobqueue.register_handler('tick', 'tick(jsonb)');
SQL
ok(wait_for(sub { log_matches($node, qr/the extension has version 0\.1\.0, the library \Q$version\E/, $offset) }),
	'old extension: the log says so');
is(outcome('INSERT INTO jobqueue.tasks (type) VALUES (\'note\')'), 'works', 'old extension: INSERT works');
is(outcome("COPY jobqueue.tasks (type) FROM STDIN;\nnote\n\\.\n"), 'works', 'old extension: COPY works');

# What the tasks are, without what a schedule adds.
sub tasks {
	return $node->safe_psql('app', <<'SQL');
		SELECT id, type, queue, status, attempts, claimed_by, run_at, unique_key, failures, metadata
		FROM jobqueue.tasks WHERE metadata IS NULL OR metadata ? 'n' ORDER BY id
SQL
}
my $before = tasks();

# Each function, with arguments with which it succeeds, or fails as it does outside of a handler.
my ($claim, $more) = ("$claimed[0], 1", "$claimed[1], 1");
my $pending = "(SELECT max(id) FROM jobqueue.tasks WHERE queue = 'out' AND status = 'pending')";
my %calls = (
	adopt => ['()'],
	alter_handler => [q{('note', max_attempts => 3)}],
	alter_queue => [q{('out', max_running => 3)}],
	cancel => [ '(' . ($claimed[2]) . ')', "($pending)" ],
	cancel_tasks => [q{('out')}],
	claim => [ q{('out')}, q{('out', 3, types => '{outside}', claimed_by => 'me')} ],
	complete => ["($claim)"],
	complete_and_claim => ["('{$claimed[0], $claimed[1]}', '{1, 1}', queue => 'out')"],
	complete_many => ["('{$claimed[0], $claimed[1]}', '{1, 1}')"],
	current_task => ['()'],
	delete_tasks => [q{('out')}],
	discard => [ "($claim, 'why')", q{('why')} ],
	drain => [ q{('out')}, '()' ],
	enqueue => [ q{('note')}, q{('note', delay => '1 day', unique_key => 'k2')} ],
	enqueue_flow => [q{('{"a": {"type": "note"}, "b": {"type": "note", "after": ["a"]}}')}],
	enqueue_many => [q{('note', '{"{}", "1"}')}],
	enqueue_sql => [q{('VACUUM ledger')}],
	enqueue_unique => [q{('outside', queue => 'out', unique_key => 'k', unique_for => '1 day')}],
	extend_lease => ["($claim)"],
	fail => [ "($claim, 'why')", "($claim, 'why', retryable => false)" ],
	grant_access => [q{('someone', 'manager', 'some')}],
	limit_role => [q{('someone', max_workers => 1, max_queued => 10)}],
	next_runs => [q{('@hourly')}],
	parent_results => [ '()', "($claim)" ],
	pause_queue => [q{('out')}],
	pause_schedule => [q{('never')}],
	purge_queue => [q{('out')}],
	register_handler => [q{('new', 'note(jsonb)')}],
	release => ["($claim)"],
	resume_queue => [q{('out')}],
	resume_schedule => [q{('never')}],
	retry => [q{((SELECT max(id) FROM jobqueue.tasks WHERE status = 'failed'))}],
	retry_failed => [q{(type => 'fail')}],
	revoke_access => [q{('someone', 'manager')}],
	schedule => [q{('another', '@hourly', 'note')}],
	schedule_sql => [q{('command', '@hourly', 'VACUUM ledger')}],
	set_progress => [ "($claim, 0.5)", '(0.5)' ],
	snooze => [ "($claim, '1 minute')", q{('1 minute')} ],
	unregister_handler => [q{('fail')}],
	unschedule => [q{('never')}],
	version => ['()'],
	wait_for => ["($claimed[3], '0 s')"]);
my %calls_of = map {
	my $function = $_;
	map { ("$function$_" => "SELECT jobqueue.$function$_") } @{ $calls{$function} }
} keys %calls;
$calls_of{$_} = "SELECT * FROM jobqueue.$_" for split /\n/, $node->safe_psql('app', <<'SQL');
	SELECT relname FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace AND relkind = 'v' AND relname !~ '^_'
SQL
$calls_of{enqueue_row} = 'INSERT INTO watched VALUES (1)';
my @functions = split /\n/, $node->safe_psql('app', <<'SQL');
	SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace AND proname !~ '^_'
SQL
is_deeply([ grep { !$calls{$_} && !$calls_of{$_} } @functions ], [], 'each function is called');

sub outcomes {
	return { map { ($_ => outcome("BEGIN; $calls_of{$_}; ROLLBACK;")) } keys %calls_of };
}
my $session = $node->background_psql('app', on_error_stop => 0);
$session->query_safe('SELECT jobqueue.cancel(0)');
$session->query(q{SELECT jobqueue.enqueue('note')});

my $with_old = outcomes();
my $differs = "55000: the extension jobqueue has version 0.1.0 in this database, its library $version";
(undef, undef, $error) = $node->psql('app', "SELECT jobqueue.enqueue('note')");
like($error, qr/HINT:  Run ALTER EXTENSION jobqueue UPDATE/, 'old extension: and what to do');

# Nothing runs meanwhile: time passes, measured by what another database does.
my $tick = $node->safe_psql('clock', "SELECT jobqueue.enqueue('tick', delay => '2 s')");
wait_sql($node, 'clock', "SELECT status FROM jobqueue.tasks WHERE id = $tick", 'completed',
	'old extension: another database goes on');
is(tasks(), $before, 'old extension: the tasks are as they were');
my @lines = grep { !/flight recorder/ } log_matches($node, qr/jobqueue \w+: (?:LOG|WARNING|ERROR|FATAL):/, $offset);
is(scalar(@lines), 1, 'old extension: one message in the log') or diag join "\n", @lines;
is(scalar(() = processes($node) =~ /(?:scheduler|worker) app/g), 0, 'old extension: no process is there');

$offset = log_size($node);
$node->safe_psql('app', 'ALTER EXTENSION jobqueue UPDATE');
is($node->safe_psql('app', "SELECT extversion FROM pg_extension WHERE extname = 'jobqueue'"), $version, 'updated');
is_completed($_, 'updated: a task that waited runs') for @ids;
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE type = 'note' AND status = 'pending'", 0,
	'updated: so do all');
my $own = $session->query(q{SELECT jobqueue.enqueue('note')});
is_completed($own, 'updated: a session that has met the error goes on');
$session->quit;
wait_sql($node, 'app', <<'SQL', 't', 'updated: schedules fire');
	SELECT max(created_at) > now() - interval '5 seconds' FROM jobqueue.tasks WHERE metadata->>'schedule' = 'often'
SQL
$node->safe_psql('app', "SELECT jobqueue.unschedule('often')");
is($node->safe_psql('app', "SELECT jobqueue.complete($first, 1)"), 't', 'updated: claims from before are valid');
wait_sql($node, 'app', "SELECT bool_and(status = 'completed') FROM jobqueue.tasks WHERE type = 'note'", 't',
	'updated: all is done, also what was blocked');
is($node->safe_psql('app', "SELECT max(attempts) FROM jobqueue.tasks WHERE type = 'note'"), 1,
	'updated: each task ran once');

my $with_new = outcomes();
my @failing = map { "$_: $with_old->{$_}" } grep { $with_old->{$_} ne 'works' && $with_old->{$_} ne $with_new->{$_} }
	sort keys %calls_of;
is(join("\n", grep { !/\Q$differs\E/ } @failing), '',
	'old extension: a function works, or says that the versions are different');
note join "\n", 'old extension: what does not work', @failing;
is(join(' ', grep { $with_old->{$_} ne 'works' } qw(version() next_runs('@hourly') queue_status running_tasks)), '',
	'old extension: what shows something works');
is(unexpected_in_log($node, undef, $offset), '', 'updated: nothing unexpected in the log');

# --------------------------------------------------------------------------------------------------------------------
# The extension is new, and somebody installs the old library again

@ids = map { $node->safe_psql('app', "SELECT jobqueue.enqueue('note', run_at => now() + '3 s')") } 1 .. 3;
$before = tasks();
$node->stop;
install_version($path, '0.1.0');
$offset = log_size($node);
$node->start;
is($node->safe_psql('app', 'SELECT jobqueue.version()'), '0.1.0', 'the old library');
ok(wait_for(sub { log_matches($node, qr/app.*the extension has version \Q$version\E, the library 0\.1\.0/, $offset) }),
	'downgraded: the log says so');
$with_old = outcomes();
is(join(' ', grep { $with_old->{$_} =~ /crash/ } sort keys %calls_of), '', 'downgraded: nothing crashes');
like($with_old->{$_}, qr/could not find function "jobqueue_\w+" in file/, "downgraded: $_: no task is changed")
  for q{enqueue('note')}, 'enqueue_row', q{claim('out')}, "complete($claim)", "fail($claim, 'why')",
  q{register_handler('new', 'note(jsonb)')};
like(outcome("INSERT INTO jobqueue.tasks (type) VALUES ('note')"), qr/could not find function/,
	'downgraded: no task is added');
note join "\n", 'downgraded: what works', grep { $with_old->{$_} eq 'works' } sort keys %calls_of;
note join "\n", 'downgraded: what fails',
	map { "$_: $with_old->{$_}" } grep { $with_old->{$_} ne 'works' } sort keys %calls_of;
wait_sql($node, 'app', "SELECT max(run_at) < now() FROM jobqueue.tasks WHERE type = 'note'", 't', 'time passes');
is(tasks(), $before, 'downgraded: the tasks are as they were');
@lines = grep { /app/ } log_matches($node, qr/jobqueue \w+: (?:LOG|WARNING|ERROR|FATAL):/, $offset);
is(scalar(@lines), 1, 'downgraded: one message in the log') or diag join "\n", @lines;

$node->stop;
install_version($path);
$node->start;
is_completed($_, 'the new library again: what waited runs') for @ids;
is($node->safe_psql('app', "SELECT max(attempts) FROM jobqueue.tasks WHERE type = 'note'"), 1, '... once');
$node->stop;

done_testing();
