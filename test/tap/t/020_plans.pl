# Every statement of the engine uses the index that was made for it, whatever the statistics were when it was planned:
# on empty tables, and on tables whose rows are all of one kind. A wrong plan passes every other test, and is slow only
# when it hurts. The plans are those that auto_explain logs while the functions and the processes run.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

chomp(my $libraries = `pg_config --pkglibdir`);
plan skip_all => 'the server has no contrib module auto_explain' unless -e "$libraries/auto_explain.so";

my $node = PostgreSQL::Test::Cluster->new('plans');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'auto_explain, jobqueue'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
jobqueue.poll_interval = 200
jobqueue.max_workers = 1
log_statement = none
});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION jobqueue;
	CREATE FUNCTION work(payload jsonb) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN IF payload ? 'fail' THEN RAISE EXCEPTION 'no'; END IF; END $$;
	SELECT jobqueue.register_handler('work', 'work(jsonb)');
});

# One session: its plans are made at first use and kept.
sub round_trip {
	$node->safe_psql('postgres', q{
		SELECT jobqueue.enqueue('outside', delay => '0.1 s');
		SELECT jobqueue.enqueue('outside') FROM generate_series(1, 5);
		SELECT jobqueue.enqueue('outside', queue => 'keys', unique_key => 'k', on_conflict => c) FROM }
			. q{unnest('{keep,keep,replace}'::text[]) c;
		SELECT jobqueue.enqueue_unique('outside', queue => 'keys', unique_key => 'k', unique_for => '0.1 s', }
			. q{on_conflict => c)
			FROM unnest('{keep,keep,replace}'::text[]) c;
		SELECT jobqueue.purge_queue('keys');
		SELECT jobqueue.enqueue('work', '{"fail": 1}', max_attempts => 1) AS failing \gset
		SELECT jobqueue.enqueue('work') AS good \gset
		SELECT status FROM jobqueue.wait_for(:failing);
		SELECT status FROM jobqueue.wait_for(:good);
		SELECT jobqueue.retry(:failing);
		SELECT status FROM jobqueue.wait_for(:failing);
		SELECT id AS a, attempts AS n FROM jobqueue.claim() \gset
		SELECT jobqueue.extend_lease(:a, :n);
		SELECT jobqueue.complete(:a, :n);
		SELECT id AS a, attempts AS n FROM jobqueue.claim(lease => '10 minutes') \gset
		SELECT jobqueue.release(:a, :n);
		SELECT id AS a, attempts AS n FROM jobqueue.claim() \gset
		SELECT jobqueue.fail(:a, :n, 'x', retry_in => '0.1 s');
		SELECT jobqueue.retry(:a);
		SELECT jobqueue.cancel(:a);
		SELECT id AS a, attempts AS n FROM jobqueue.claim(lease => '0.1 s') \gset
		UPDATE jobqueue.tasks SET status = 'completed'
			WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' LIMIT 1);
	});
	# promotion, expiry and archiving are the scheduler's
	$node->poll_query_until('postgres', q{
		SELECT NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE status IN ('scheduled', 'processing', 'completed'))
			AND NOT EXISTS (SELECT 1 FROM jobqueue.unique_keys)
	}) or die 'the scheduler did not do its part';
}

# What auto_explain logged since the offset: [query, plan] of the engine's statements.
sub plans_since {
	my ($offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my @plans;
	while ($log =~ /plan:\n\tQuery Text: (.*?)\n(\t\S[^\n]*\(cost=[^\n]*\n(?:\t[^\n]*\n)*)/gs) {
		my ($query, $plan) = ($1, $2);
		$query =~ s/\s+/ /g;
		$query =~ s/^ //;
		# they give their tables short names, as the queries of this test do not
		push @plans, [ $query, $plan ]
			if $query =~ /^(?:WITH|SELECT|INSERT|UPDATE|DELETE)\b/
			&& $query =~ /\bjobqueue\.\w+ (?:AS )?[a-z]\b/
			&& $query =~ /[=<>]/;
	}
	return @plans;
}

sub check_plans {
	my ($when, @plans) = @_;
	my (%used, @wrong);
	for (@plans) {
		my ($query, $plan) = @$_;
		push @wrong, "reads the whole table:\n$query\n$plan" if $plan =~ /Seq Scan on (?:tasks_live|unique_keys)/;
		push @wrong, "sorts:\n$query\n$plan"
			if $plan =~ /Sort Key: (?!u\.)/ && $query !~ /lane_heads|unnest/;
		$used{complete}++ if $query =~ /^WITH done AS/;
		my $index =
			  $query =~ /'pending' AND t\.group_key IS NOT NULL/ ? 'tasks_live_group'
			: $query =~ /t\.status = 'pending'/ ? 'tasks_live_next'
			: $query =~ /\(s\.run_at, s\.id\) / || $query =~ /'scheduled' AND \(t\.run_at/ ? 'tasks_live_due'
			: $query =~ /WHERE t\.type \S+ \$1 AND t\.unique_key/ ? 'tasks_live_unique_key'
			: $query =~ /(?:FROM|UPDATE) jobqueue\.unique_keys k / && $query !~ /unique_keys e/ ? 'unique_keys_pkey'
			: $query =~ /FROM jobqueue\.unique_keys e/ ? 'unique_keys_expired'
			: $query =~ /\(t\.lease_expires_at, t\.id\) >=/ ? 'tasks_live_lease'
			: $query =~ /ORDER BY s\.updated_at/ ? 'tasks_live_finished'
			: $query =~ /WHERE t\.ctid/ ? 'tid'
			: $query =~ /FROM jobqueue\.tasks_live t (USING .*)?WHERE t\.id|UPDATE jobqueue\.tasks_live t/
			? 'tasks_live_pkey'
			: next;
		$used{$index}++;
		push @wrong, "reads all of the primary key:\n$query\n$plan"
			if $plan =~ /using tasks_live_pkey on \S+ t [^\n]*\n(?!\s*Index Cond)/;
		push @wrong, "does not use $index:\n$query\n$plan" unless $index eq 'tid' ? $plan =~ /Tid Scan on tasks_live/
			: $plan =~ /using $index on/;
		# by id: nothing but the primary key, or a full scan of a partial index could pass for a look-up
		push @wrong, "uses more than the primary key:\n$query\n$plan"
			if $index eq 'tasks_live_pkey' && $plan =~ /using tasks_live_(?!pkey)/ && $query !~ /ARRAY\(SELECT/;
	}
	is(join("\n", @wrong), '', "$when: every statement has its plan");
	for my $index (
		qw(tasks_live_next tasks_live_due tasks_live_lease tasks_live_finished tasks_live_pkey tasks_live_unique_key
		unique_keys_pkey unique_keys_expired tid complete)) {
		ok($used{$index}, "$when: statements that need $index were seen");
	}
}

my $offset = -s $node->logfile;
round_trip();
check_plans('planned on empty tables', plans_since($offset));

# Statistics that speak for the primary key: all rows alike, and the partial indexes cover everything or nothing.
$node->safe_psql('postgres', q{
	SELECT jobqueue.pause_queue('bulk');
	INSERT INTO jobqueue.tasks (type, queue) SELECT 'outside', 'bulk' FROM generate_series(1, 50000);
	VACUUM ANALYZE jobqueue.tasks_live;
});
$node->restart;
$offset = -s $node->logfile;
round_trip();
check_plans('planned on 50,000 tasks of one kind', plans_since($offset));

$node->stop;
done_testing();
