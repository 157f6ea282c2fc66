# Helpers shared by the TAP tests: servers with jobqueue preloaded, waiting with a deadline, reading the log.
package JobQueueTest;

use strict;
use warnings;
use Exporter 'import';
use File::Basename;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT =
	qw($check_at_commit new_node start_node create_queue create_ledger poll_sql wait_sql wait_for pids processes
  statuses log_size log_since log_matches unexpected_in_log is_prompt watch_idle is_seldom_awake has_past_library
  copy_installation install_version needs_login allow_login older_server programs);

# SQL: a row with "bad" in the table checked raises an error, but only when the transaction commits.
our $check_at_commit = <<'SQL';
	CREATE FUNCTION check_it() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.bad THEN
			RAISE EXCEPTION 'found at commit' USING ERRCODE = 'XC001';
		END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER check_it AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		EXECUTE FUNCTION check_it();
SQL

# A server that is initialised but not started. %conf are lines of postgresql.conf; undef leaves a line out. A server
# of another installation than the one of all tests has an install_path.
sub new_node {
	my ($name, %conf) = @_;
	my %init = %{ delete $conf{init} // {} };
	my $path = delete $conf{install_path};
	my $node = PostgreSQL::Test::Cluster->new($name, $path ? (install_path => $path) : ());
	$node->init(%init);
	%conf = (
		shared_preload_libraries => "'jobqueue'",
		log_line_prefix => "'%m [%p] %b: '",
		log_statement => 'none',
		log_autovacuum_min_duration => -1,
		log_checkpoints => 'off',
		max_connections => 50,
		%conf);
	$node->append_conf('postgresql.conf',
		join '', map { "$_ = $conf{$_}\n" } grep { defined $conf{$_} } sort keys %conf);
	return $node;
}

sub start_node {
	my $node = new_node(@_);
	$node->start;
	return $node;
}

# Databases with the extension in them.
sub create_queue {
	my ($node, @databases) = @_;
	for my $database (@databases) {
		$node->safe_psql('postgres', "CREATE DATABASE $database") if $database ne 'postgres';
		$node->safe_psql($database, 'CREATE EXTENSION jobqueue');
	}
}

# A handler for the type 'note', which notes the task in a table with a unique key, and then sleeps for
# payload.sleep seconds: a task whose effects are done twice fails, and shows by its last_error.
sub create_ledger {
	my ($node, @databases) = @_;
	$node->safe_psql($_, <<'SQL') for @databases;
		CREATE TABLE ledger (task bigint PRIMARY KEY, pid integer NOT NULL DEFAULT pg_backend_pid(),
			at timestamptz NOT NULL DEFAULT clock_timestamp());
		CREATE FUNCTION note(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.ledger (task) VALUES ((jobqueue.current_task()).id);
			IF payload ? 'sleep' THEN
				PERFORM pg_sleep((payload->>'sleep')::float8);
			END IF;
		END $$;
		SELECT jobqueue.register_handler('note', 'note(jsonb)');
SQL
}

# The time limit only decides how soon a failure shows: it is the same everywhere, and long enough for a busy machine.
# If something must not be found by a poll, or by another wait, it is tested where these never come.

# Waits until a query gives this answer ('t' if left out).
sub poll_sql {
	my ($node, $database, $query, $expected) = @_;
	return wait_for(sub { $node->poll_query_until($database, $query, $expected // 't') });
}

# The same as one test, with a name.
sub wait_sql {
	my ($node, $database, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(poll_sql($node, $database, $query, $expected), $name);
}

# Waits until a function returns something true. Returns that, or nothing when time is up. While the server starts
# again, a psql that cannot connect may be gone before it is given its query, which is an exception here.
sub wait_for {
	my ($function) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1) {
		my $result = eval { $function->() };
		die $@ if $@ && $@ !~ /^ack Broken pipe/;
		return $result if $result;
		return if time > $end;
		usleep(20_000);
	}
}

# Process ids of our processes: pids($node, 'worker'), pids($node, 'scheduler', 'a_database').
sub pids {
	my ($node, $kind, $database) = @_;
	my $where = defined $database ? "AND datname = '$database'" : '';
	return split /\n/, $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobqueue $kind' $where ORDER BY pid");
}

# All our processes, as text: "launcher, scheduler app1, worker app1"
sub processes {
	my ($node) = @_;
	return $node->safe_psql('postgres', <<'SQL');
		SELECT string_agg(concat_ws(' ', replace(backend_type, 'jobqueue ', ''), datname), ', '
			ORDER BY backend_type, datname)
		FROM pg_stat_activity WHERE backend_type LIKE 'jobqueue %'
SQL
}

# How many tasks of each status: "completed 3, pending 1"
sub statuses {
	my ($node, $database) = @_;
	return $node->safe_psql($database, <<'SQL');
		SELECT string_agg(status || ' ' || n, ', ' ORDER BY status)
		FROM (SELECT status, count(*) AS n FROM jobqueue.tasks GROUP BY status) s
SQL
}

sub log_size {
	my ($node) = @_;
	return -s $node->logfile;
}

sub log_since {
	my ($node, $offset) = @_;
	return slurp_file($node->logfile, $offset // 0);
}

# The lines of the log, from an offset on, that match.
sub log_matches {
	my ($node, $regexp, $offset) = @_;
	return grep { /$regexp/ } split /\n/, log_since($node, $offset);
}

# The lines that our processes should not have written, and traces of a crash: all unexpected ones that are warnings or
# worse.
sub unexpected_in_log {
	my ($node, $expected, $offset) = @_;
	my @lines = log_matches($node,
		qr/jobqueue [a-z]+: (?:WARNING|ERROR|FATAL|PANIC):|PANIC:|TRAP:|was terminated by signal|stuck spinlock/,
			$offset);
	# the server's own words when a process is told to end
	@lines = grep { !/terminating background worker "jobqueue [a-z]+" due to administrator command/ } @lines;
	@lines = grep { !/$expected/ } @lines if defined $expected;
	return join "\n", @lines;
}

# One test: the function does not wait for something that takes far longer than this limit, for example a handler that
# sleeps for ten minutes. Returns what the function returned.
sub is_prompt {
	my ($function, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my $result = $function->();
	my $took = time - $start;
	ok($took < $PostgreSQL::Test::Utils::timeout_default, $name) or diag sprintf('it took %.2f s', $took);
	return $result;
}

# The children of the postmaster whose title matches: client backends, for instance, are "[local]".
sub children {
	my ($node, $title) = @_;
	my @found;
	for my $directory (glob '/proc/[0-9]*') {
		my $pid = $directory =~ s/.*\///r;
		my @stat = proc_stat($pid);
		next unless @stat && $stat[1] == $node->{_pid};
		open my $file, '<', "$directory/cmdline" or next;
		push @found, $pid if (<$file> // '') =~ $title;
	}
	return @found;
}

# The fields of /proc/PID/stat from the third on: state, ppid, ...
sub proc_stat {
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return;
	my $line = <$file> // return;
	$line =~ s/.*\) //s;
	return split / /, $line;
}

# How often each of our processes has gone to sleep so far, by its pid. Unlike CPU time, this number does not depend on
# what else the machine does.
sub sleeps_of_processes {
	my ($node) = @_;
	my %sleeps;
	for my $pid (children($node, qr/jobqueue/)) {
		open my $file, '<', "/proc/$pid/status" or next;
		local $/;
		$sleeps{$pid} = $1 if (<$file> // '') =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	}
	return \%sleeps;
}

# Leaves the server alone for so many seconds. Returns how often our processes were awake meanwhile (undef where it
# cannot be counted; a process that never sleeps counts as awake without end) and what was written to the log.
# $sessions: how many sessions the test keeps open.
sub watch_idle {
	my ($node, $seconds, $sessions) = @_;
	my $offset = log_size($node);
	my $before;
	if ($^O eq 'linux' && -r '/proc/self/status') {
		wait_for(sub { children($node, qr/\[local\]/) <= ($sessions // 0) }) or die 'sessions do not end';
		$before = sleeps_of_processes($node);
	}
	my $end = time + $seconds;
	usleep(100_000) while time < $end;
	my $awake;
	if ($before) {
		my $after = sleeps_of_processes($node);
		$awake = 0;
		for my $pid (keys %$after) {
			my @stat = proc_stat($pid);
			my $more = $after->{$pid} - ($before->{$pid} // -1); # it has started meanwhile
			$awake += $more == 0 && @stat && $stat[0] eq 'R' ? 'inf' : $more;
		}
	}
	return ($awake, log_since($node, $offset));
}

# One test: so many wake-ups at most.
sub is_seldom_awake {
	my ($awake, $most, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
  SKIP: {
		skip 'wake-ups can be counted on Linux only', 1 unless defined $awake;
		note "$name: awake $awake times";
		ok($awake <= $most, $name) or diag "awake $awake times, not more than $most wanted";
	}
}

# A server before 17 with assertions cannot connect a worker as a role without LOGIN.
sub needs_login {
	my ($node) = @_;
	return $node->pg_version < 17 && $node->safe_psql('postgres', 'SHOW debug_assertions') eq 'on';
}

# Gives the role LOGIN where its handlers could not run otherwise.
sub allow_login {
	my ($node, $role) = @_;
	$node->safe_psql('postgres', "ALTER ROLE $role LOGIN") if needs_login($node);
}

# For new_node: the newest server that is older than the one to test, if one is at hand. See older_server_for_tests in
# scripts/test.
sub older_server {
	my $bindir = $ENV{JOBQUEUE_OLDER};
	return $bindir ? (install_path => dirname($bindir)) : ();
}

# The programs of the server to test, for use on an older one.
sub programs {
	chomp(my $bindir = `pg_config --bindir`);
	return map { "$bindir/$_" } @_;
}

# Is this version at hand, from the git history, with its library? See past_version_for_tests in scripts/test.
sub has_past_library {
	my ($version) = @_;
	return -f ($ENV{JOBQUEUE_PAST} // '') . "/$version/jobqueue.so";
}

# A copy of the installation, whose files a test may replace. Returns the install_path for new_node.
sub copy_installation {
	my $copy = PostgreSQL::Test::Utils::tempdir('installation');
	chomp(my $bindir = `pg_config --bindir`);
	my $root = "$ENV{JOBQUEUE_PAST}/root";
	my $inside = substr($bindir, length($root =~ s{/past/root$}{/root}r));
	-x "$root$inside/postgres" or die "no server in $root$inside";
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', "$root/.", $copy);
	return dirname("$copy$inside");
}

# Replaces the extension's files in such a copy by those of another version, or of the present one if none is given, as
# a package does: sessions that have loaded the old library keep it.
sub install_version {
	my ($path, $version) = @_;
	my ($library, $share) = map { chomp(my $dir = `$path/bin/pg_config --$_`); $dir } qw(pkglibdir sharedir);
	my @files;
	if ($version) {
		my $past = "$ENV{JOBQUEUE_PAST}/$version";
		@files = map { "$past/$_" } ('jobqueue.so', 'jobqueue.control', "jobqueue--$version.sql");
	} else {
		my ($copy) = $path =~ m{^(.*/installation_[^/]*)};
		@files = map { $_ =~ s/^\Q$copy\E/$ENV{JOBQUEUE_PAST}\/root/r } ("$library/jobqueue.so", "$share/extension");
		@files = ($files[0], glob "$files[1]/jobqueue[.-]*");
	}
	unlink glob "$share/extension/jobqueue[.-]*";
	for my $file (@files) {
		my $name = basename($file);
		my $new = ($name =~ /\.so$/ ? $library : "$share/extension") . "/$name";
		copy($file, "$new.new") && chmod(0755, "$new.new") && rename("$new.new", $new) or die "$new: $!";
	}
}

1;
