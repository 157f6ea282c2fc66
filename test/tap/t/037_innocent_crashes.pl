# Crashes that a worker did not cause, and what happens if the file of the flight recorder is damaged.
#
# - A4: the file is cut, removed, a directory, a pipe, a link: the server goes on, comes back after a crash, and says so
#   once
# - E12: workers that were stopped (SIGSTOP) at an immediate stop, or while somebody else crashes; a worker that cannot
#   write the log of the server; the file or its directory gone
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('innocent', restart_after_crash => 'on', autovacuum => 'off', wal_buffers => '64kB',
	'jobqueue.max_workers' => 3);
create_queue($node, 'app');
$node->safe_psql('app', <<'SQL');
	CREATE TABLE open (gate int);
	-- Waits until its gate is open, and then writes so many times 8 kB to the log of the server, and nowhere else.
	CREATE FUNCTION gated(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared((jobqueue.current_task()).id);
		WHILE NOT EXISTS (SELECT FROM public.open WHERE gate = (payload->>'gate')::int) LOOP
			PERFORM pg_sleep(0.02);
		END LOOP;
		FOR i IN 1 .. coalesce((payload->>'wal')::int, 0) LOOP
			PERFORM pg_logical_emit_message(true, 'filler', repeat('x', 8000));
		END LOOP;
	END $$;
	SELECT jobqueue.register_handler('gated', 'gated(jsonb)', max_attempts => 1);
	CREATE FUNCTION nothing(jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	SELECT jobqueue.register_handler('nothing', 'nothing(jsonb)');
	CREATE FUNCTION bad_panic(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	SELECT jobqueue.register_handler('panic', 'bad_panic(jsonb)', max_attempts => 1);
SQL

my $ready = qr/database system is ready to accept connections/;
my $said = qr/flight recorder/;
my $file = $node->data_dir . '/pg_stat_tmp/jobqueue_flight_recorder';
my $gates = 0;

# So many tasks behind a new gate, once they run. Returns the gate, the ids, and the processes.
sub run_gated {
	my ($count, $more) = @_;
	my $gate = ++$gates;
	my @ids = split /\n/, $node->safe_psql('app', "SELECT jobqueue.enqueue('gated', '{\"gate\": $gate" . ($more // '')
		. "}')
		FROM generate_series(1, $count)");
	return ($gate, \@ids, wait_running(@ids));
}

sub wait_running {
	my (@ids) = @_;
	my $pids = wait_for(sub {
		my %running = map { split /\|/ } split /\n/, $node->safe_psql('app', "SELECT objid, pid FROM pg_locks
			WHERE locktype = 'advisory' AND objid IN (" . join(',', @ids) . ')');
		return keys %running == @ids ? \%running : undef;
	});
	die 'not running: ' . $node->safe_psql('app', 'SELECT t FROM jobqueue.tasks_live t') unless $pids;
	return [ @{$pids}{@ids} ];
}

sub is_uncharged {
	my ($what, $gate, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = join ',', @ids;
	$node->safe_psql('app', "INSERT INTO open VALUES ($gate)");
	wait_sql($node, 'app',
		"SELECT string_agg(concat_ws(' ', status, crashes, failures), ', ') FROM jobqueue.tasks WHERE id IN ($list)",
		join(', ', ('completed 0') x @ids), "$what: charged nothing, and done")
			or diag $node->safe_psql('app', 'SELECT t FROM jobqueue.tasks t');
}

sub is_charged {
	my ($what, $id) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT status, crashes, last_sqlstate FROM jobqueue.tasks WHERE id = $id", 'failed|1|JQ005',
		"$what: who did it is charged") or diag $node->safe_psql('app', 'SELECT t FROM jobqueue.tasks t');
}

sub wait_ready {
	my ($offset, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_for(sub { log_matches($node, $ready, $offset) }), "$what: the server comes back") or die 'it does not';
	poll_sql($node, 'app', 'SELECT true');
}

# Kills the first of three workers.
sub crash {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($gate, $ids, $pids) = run_gated(3);
	my ($bad, @others) = @$ids;
	my $offset = log_size($node);
	kill 'KILL', $pids->[0];
	wait_ready($offset, $what);
	is_charged($what, $bad);
	is_uncharged($what, $gate, @others);
}

sub do_work {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ids =
		$node->safe_psql('app',
			"SELECT string_agg(jobqueue.enqueue('nothing')::text, ',') FROM generate_series(1, 200)");
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id IN ($ids) AND status = 'completed'", 200,
		"$what: tasks run");
}

$node->safe_psql('app', 'ALTER SYSTEM SET jobqueue.max_crashes = 1');
$node->reload;
wait_sql($node, 'app', 'SHOW jobqueue.max_crashes', 1, 'max_crashes = 1');

# --------------------------------------------------------------------------------------------------------------------
# A4

sub cut {
	open my $out, '>', $file or die "$file: $!";
	close $out;
}

do_work('before');
my $offset = log_size($node);
cut();
do_work('A4: the file cut while the server runs');
crash('A4: the file cut');
is(join("\n", log_matches($node, qr/signal 7|Bus error/, $offset)), '',
	'A4: the file cut: nobody has touched what is not there');
cmp_ok(scalar(log_matches($node, $said, $offset)), '<=', 1, 'A4: the file cut: at most one line says so');
crash('A4: again, with a file that is whole');

for my $way (
	[ 'a directory', sub { mkdir $file or die $! }, sub { rmdir $file or die $! } ],
	[ 'a pipe', sub { POSIX::mkfifo($file, 0600) or die $! }, sub { unlink $file or die $! } ],
	[ 'a link', sub { symlink '/dev/full', $file or die $! }, sub { unlink $file or die $! } ],
	[ 'garbage', sub { append_to_file($file, 'x' x 100000) }, sub { } ],
	[ 'its directory removed', sub { rmdir $node->data_dir . '/pg_stat_tmp' or die $! },
		sub { mkdir $node->data_dir . '/pg_stat_tmp' or die $! } ]) {
	my ($what, $spoil, $mend) = @$way;
	$what = "A4: the file is $what";
	$offset = log_size($node);
	$node->stop;
	unlink $file;
	$spoil->();
	$node->start;
	do_work($what);
	crash($what);
	is(scalar(log_matches($node, $said, $offset)), 1, "$what: one line says so") or diag join "\n",
		log_matches($node, $said, $offset);
	$mend->();
}
$node->restart;

# --------------------------------------------------------------------------------------------------------------------
# E12

my ($gate, $ids, $pids) = run_gated(3);
kill 'STOP', $pids->[0];
$node->stop('immediate');
$node->start;
is_uncharged('E12: a worker that was stopped, at an immediate stop', $gate, @$ids);

($gate, $ids, $pids) = run_gated(3);
kill 'STOP', @$pids;
$offset = log_size($node);
my $client = $node->background_psql('app', on_error_stop => 0);
kill 'KILL', $client->query_safe('SELECT pg_backend_pid()');
wait_ready($offset, 'E12: workers that were stopped, when a client\'s backend crashed');
eval { $client->quit };
is_uncharged('E12: workers that were stopped, when a client\'s backend crashed', $gate, @$ids);

($gate, $ids, $pids) = run_gated(3);
my ($bad, @others) = @$ids;
kill 'STOP', $pids->[1];
$offset = log_size($node);
kill 'KILL', $pids->[0];
wait_ready($offset, 'E12: a worker crashed beside one that was stopped');
is_charged('E12: a worker crashed beside one that was stopped', $bad);
is_uncharged('E12: a worker crashed beside one that was stopped', $gate, @others);

# As when pg_wal is full: this worker may write nothing to a file of 16 MB beyond its first bytes.
SKIP: {
	skip 'no prlimit', 5 if system('prlimit --version >/dev/null 2>&1') != 0;
	($gate, $ids, $pids) = run_gated(2, ', "wal": 200');
	$offset = log_size($node);
	is(system("prlimit --pid $pids->[0] --fsize=8192:8192"), 0, 'E12: a worker cannot write the log');
	$node->safe_psql('app', "INSERT INTO open VALUES ($gate)");
	wait_ready($offset, 'E12: a worker cannot write the log');
	# Its own word, PANIC, is lost: the server's log is a file, too.
	isnt(scalar(log_matches($node, qr/"jobqueue worker".*was terminated by signal 6/, $offset)), 0,
		'E12: ... and has ended the server for it');
	is_uncharged('E12: a worker cannot write the log', $gate, @$ids);
}

$offset = log_size($node);
$node->psql('app', "SELECT jobqueue.enqueue('panic', '{}')"); # which may not live to see the answer
wait_ready($offset, 'E12: PANIC for another reason');
$bad = $node->safe_psql('app', "SELECT id FROM jobqueue.tasks WHERE type = 'panic'");
is_charged('E12: PANIC for another reason', $bad);

# The server is not started again at once; the file is what tells.
$node->append_conf('postgresql.conf', 'restart_after_crash = off');
$node->restart;
for my $way ([ 'as it should be', sub { } ], [ 'cut', \&cut ], [ 'removed', sub { unlink $file or die $! } ],
	[ 'removed, with its directory', sub { unlink $file or die $!;
		rmdir $node->data_dir . '/pg_stat_tmp' or die $! } ]) {
	my ($what, $spoil) = @$way;
	$what = "E12: restart_after_crash = off, the file $what";
	my $lost = $what =~ /directory/;
	my $postmaster = $node->{_pid};
	($gate, $ids, $pids) = run_gated(3);
	($bad, @others) = @$ids;
	$spoil->();
	kill 'STOP', $pids->[1] if $what =~ /should/; # the postmaster waits five seconds for it
	kill 'KILL', $pids->[0];
	ok(wait_for(sub { !kill 0, $postmaster }), "$what: the server ends");
	$node->{_pid} = undef;
	mkdir $node->data_dir . '/pg_stat_tmp';
	$node->start;
	is_charged($what, $bad) unless $lost;
	is_uncharged($what, $gate, $lost ? @$ids : @others);
}
$node->restart;
is($node->safe_psql('app', 'SELECT sum(crashes), max(crashes) FROM jobqueue.tasks'), $node->safe_psql('app',
	"SELECT count(*), 1 FROM jobqueue.tasks WHERE status = 'failed'"), 'each crash is charged once');
$node->stop;
done_testing();
