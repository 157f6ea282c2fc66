# Limits: groups, max_running, rates, weights and aging, of workers and outside claimers together.
#
# - groups: many groups, four workers: each task finds the one before it committed, none begin before that; also fused
# - at random: outside sessions that claim, complete, fail, snooze, release, extend, cancel, in transactions that
#   commit, roll back or lose a savepoint, beside workers that are terminated: never two of a group at once, never more
#   than max_running, in order; and afterwards nothing is stuck
# - kill -9 of the server: claims from outside still count afterwards
# - rates: with four workers and two outside claimers nearly all of it is used, and no window has more
# - max_running up and down while many want to run
# - weights and strict order; aging; fair groups
# - what waits uses no CPU, and does not delay other queues
#
# LIMITS_SCALE=50 makes the first part 1,000,000 tasks in 100,000 groups, and the rate 60 s. LIMITS_SEED repeats the
# random part.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use IPC::Run;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $scale = $ENV{LIMITS_SCALE} // 1;
my $seed = $ENV{LIMITS_SEED} // int rand 1_000_000;
note "LIMITS_SEED=$seed";
srand $seed;

my $node = start_node('limits', autovacuum => 'off', max_worker_processes => 20, restart_after_crash => 'on',
	fsync => 'off', max_prepared_transactions => 5,
	'jobqueue.max_workers' => 4, 'jobqueue.poll_interval' => '1s');
create_queue($node, 'app');

sub sql {
	my ($sql) = @_;
	return $node->safe_psql('app', "SET client_min_messages = error;\n$sql");
}

# A session of its own that runs something to its end.
sub start_session {
	my ($sql) = @_;
	my %run = (out => '');
	$run{h} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('app'),
		'-c', $sql ],
		'<', '/dev/null', '>', \$run{out}, '2>&1', IPC::Run::timeout(
			$PostgreSQL::Test::Utils::timeout_default * $scale));
	return \%run;
}

sub finish_session {
	my ($run, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$run->{h}->finish;
	ok(!$run->{h}->result(0), $name) or diag substr($run->{out}, -2000);
	return $run->{out};
}

sub empties {
	my ($where, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_sql($node, 'app', "SELECT count(*) = 0 FROM jobqueue.tasks_live WHERE $where", 't', $name)
	  or diag sql("SELECT id, type, queue, group_key, status, attempts, run_at, lease_expires_at, last_error FROM "
	  	. "jobqueue.tasks_live WHERE $where ORDER BY id LIMIT 10"),
		"\nqueues: ", sql('SELECT * FROM jobqueue.queues');
}

# All begin and end times that are known: no more than so many at once in each partition.
sub never_more {
	my ($limit, $by, $where, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql(<<"SQL"), '', $name);
		SELECT * FROM (
			SELECT $by AS what, at, task, who, sum(delta) OVER (PARTITION BY $by ORDER BY at, delta) AS n FROM (
				SELECT queue, grp, type, task, who, begins AS at, 1 AS delta FROM spans WHERE $where
				UNION ALL SELECT queue, grp, type, task, who, ends, -1 FROM spans WHERE $where) s) t
		WHERE n > $limit ORDER BY at LIMIT 5
SQL
}

sql(<<'SQL');
	-- What a handler notes, in its transaction.
	CREATE TABLE ran (task bigint, queue text, grp text, type text, n int, seen int, begins timestamptz,
		ends timestamptz,
		pid int DEFAULT pg_backend_pid(), seq bigserial, xid xid8 DEFAULT pg_current_xact_id());
	CREATE FUNCTION chain(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		began timestamptz := clock_timestamp();
		before int := (SELECT coalesce(max(r.n), 0) FROM public.ran r WHERE r.queue = task.queue
			AND r.grp = task.group_key);
	BEGIN
		INSERT INTO public.ran SELECT task.id, task.queue, task.group_key, task.type, (task.payload->>'n')::int, before,
			began, clock_timestamp();
	END $$;
	CREATE FUNCTION note(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		began timestamptz := clock_timestamp();
	BEGIN
		PERFORM pg_sleep(coalesce((task.payload->>'sleep')::float8, 0));
		INSERT INTO public.ran SELECT task.id, task.queue, task.group_key, task.type, (task.payload->>'n')::int, 0,
			began, clock_timestamp();
	END $$;
	CREATE INDEX ON ran (queue, grp, n);
	-- What becomes of claims from outside, whoever does it.
	CREATE TABLE claimed (task bigint, queue text, grp text, type text, delta int,
		at timestamptz DEFAULT clock_timestamp(), pid int DEFAULT pg_backend_pid(), seq bigserial);
	CREATE FUNCTION log_claim() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF TG_OP = 'UPDATE' AND OLD.status <> 'processing' AND NEW.status = 'processing' AND NEW.lease_expires_at IS
			NOT NULL AND NEW.claimed_by LIKE 'out%' THEN
			INSERT INTO public.claimed (task, queue, grp, type, delta)
				VALUES (NEW.id, NEW.queue, NEW.group_key, NEW.type, 1);
		ELSIF OLD.status = 'processing' AND OLD.claimed_by LIKE 'out%'
			AND (TG_OP = 'DELETE' OR NEW.status <> 'processing') THEN
			INSERT INTO public.claimed (task, queue, grp, type, delta)
				VALUES (OLD.id, OLD.queue, OLD.group_key, OLD.type, -1);
		END IF;
		RETURN NULL;
	END $$;
	CREATE VIEW spans AS
		SELECT task, queue, grp, type, begins, ends, 'worker ' || pid AS who FROM ran
		UNION ALL SELECT task, queue, grp, type, at, coalesce(next, 'infinity'), 'outside ' || pid
		FROM (SELECT *, lead(at) OVER (PARTITION BY task ORDER BY at, seq) AS next FROM claimed) c WHERE delta = 1;
	SELECT jobqueue.register_handler('chain', 'chain(jobqueue.tasks)');
	SELECT jobqueue.register_handler('note', 'note(jobqueue.tasks)');
SQL

# --------------------------------------------------------------------------------------------------------------------
# Groups

sub groups {
	my $groups = 2000 * $scale;
	for my $fused (0, 1) {
		my $queue = "groups$fused";
		$node->append_conf('postgresql.conf', 'jobqueue.fused_after = ' . ($fused ? 0 : 3) . "\njobqueue.fused_time "
			. "= " . ($fused ? 100 : 10));
		$node->reload;
		my $n = $fused ? min($groups, 2000) : $groups;
		sql("SELECT count(jobqueue.enqueue('chain', jsonb_build_object('n', n), '$queue', group_key => 'g' || g)) "
			. "FROM generate_series(1, 10) n, generate_series(1, $n) g");
		my $start = time;
		empties("queue = '$queue'", "groups, $queue: all have run", 60 * $scale);
		note sprintf '%d tasks of %d groups: %.1f s', 10 * $n, $n, time - $start;
		is(sql("SELECT count(*), count(DISTINCT (grp, n)), count(DISTINCT pid) > 1, count(*) FILTER (WHERE seen <> n "
			. "- 1) FROM ran WHERE queue = '$queue'"),
			join('|', 10 * $n, 10 * $n, 't', 0),
				"$queue: each once, by several workers, in order, and each saw the one before it");
		never_more(1, 'grp', "queue = '$queue'", "$queue: never two of a group at once");
		is(sql(<<"SQL"), '', "$queue: in order by the clock");
		SELECT * FROM (SELECT grp, n, begins, lag(n) OVER w AS before,
			lag(ends) OVER w AS ended FROM ran WHERE queue = '$queue'
			WINDOW w AS (PARTITION BY grp ORDER BY begins)) r
		WHERE before IS DISTINCT FROM nullif(n - 1, 0) OR ended > begins LIMIT 5
SQL
	}
	$node->append_conf('postgresql.conf', "jobqueue.fused_after = 3\njobqueue.fused_time = 10");
	$node->reload;
}

# One group with very many, and few in others: those are done long before it.
sub fair {
	sql(<<'SQL');
	SELECT jobqueue.pause_queue('fair');
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.001}', 'fair', group_key => 'big'))
		FROM generate_series(1, 3000);
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.001}', 'fair', group_key => 'small' || g))
		FROM generate_series(1, 40) g, generate_series(1, 3);
	SELECT jobqueue.resume_queue('fair');
SQL
	wait_sql($node, 'app', "SELECT count(*) = 120 FROM ran WHERE queue = 'fair' AND grp <> 'big'", 't',
		'fair: small groups are done');
	cmp_ok(sql("SELECT count(*) FROM ran WHERE queue = 'fair' AND grp = 'big' AND begins < (SELECT max(begins) FROM "
		. "ran WHERE queue = 'fair' AND grp <> 'big')"), '<', 600,
		'fair: while few of the big one have run');
	sql(q{SELECT jobqueue.purge_queue('fair')});
}

# --------------------------------------------------------------------------------------------------------------------
# At random

sub at_random {
	sql(<<'SQL');
	TRUNCATE ran, claimed;
	CREATE TRIGGER log_claim AFTER UPDATE OR DELETE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION log_claim();
	CREATE TABLE trouble (at timestamptz DEFAULT clock_timestamp(), pid int DEFAULT pg_backend_pid(), what text);
	-- Some fail, some snooze; nothing of a failed one is noted.
	CREATE FUNCTION fickle(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		began timestamptz := clock_timestamp();
		r float8 := random();
	BEGIN
		IF r < 0.5 THEN
			PERFORM pg_sleep(random() * 0.004);
		END IF;
		INSERT INTO public.ran SELECT task.id, task.queue, task.group_key, task.type, (task.payload->>'n')::int, 0,
			began, clock_timestamp();
		IF r < 0.05 THEN
			RAISE 'fickle';
		ELSIF r < 0.1 THEN
			PERFORM jobqueue.snooze(random() * interval '50 ms');
		END IF;
	END $$;
	SELECT jobqueue.register_handler(t, 'fickle(jobqueue.tasks)', first_delay => '20 ms', backoff => 'fixed',
		max_attempts => 1000,
		max_running => CASE t WHEN 'fickle2' THEN 3 END)
	FROM unnest('{fickle,fickle2}'::text[]) t;
	SELECT jobqueue.alter_queue('r2', max_running => 4);

	CREATE PROCEDURE outsider(seed float8, until timestamptz, me text) LANGUAGE plpgsql AS $$
	DECLARE
		r float8;
		h record;
		t record;
		back boolean;
		mine text;
	BEGIN
		PERFORM setseed(seed);
		CREATE TEMP TABLE held (id bigint, attempt int);
		COMMIT;
		WHILE clock_timestamp() < until LOOP
			FOR part IN 1 .. 1 + (random() * 3)::int LOOP
				back := random() < 0.2;
				BEGIN
					FOR op IN 1 .. 1 + (random() * 2)::int LOOP
						r := random();
						SELECT * INTO h FROM held ORDER BY random() LIMIT 1;
						IF h.id IS NULL OR r < 0.3 THEN
							INSERT INTO held SELECT c.id,
								c.attempts FROM jobqueue.claim((ARRAY['r1', 'r2', NULL])[1 + (random() * 2)::int],
									1 + (random() * 4)::int,
								lease => CASE WHEN random() < 0.1 THEN interval '20 ms' ELSE '2 s' END,
									claimed_by => me,
								types => CASE WHEN random() < 0.1 THEN ARRAY['fickle2'] ELSE ARRAY['fickle', 'fickle2']
									END) c;
						ELSE
							IF r < 0.5 THEN
								PERFORM jobqueue.complete(h.id, h.attempt);
							ELSIF r < 0.65 THEN
								INSERT INTO held SELECT c.id, c.attempts FROM jobqueue.complete_and_claim(ARRAY[h.id],
									ARRAY[h.attempt], NULL, (ARRAY['r1', 'r2', NULL])[1 + (random() * 2)::int],
									1 + (random() * 2)::int, lease => '2 s', claimed_by => me,
										types => ARRAY['fickle', 'fickle2']) c;
							ELSIF r < 0.72 THEN
								PERFORM jobqueue.fail(h.id, h.attempt, 'outside',
									retry_in => random() * interval '30 ms', retryable => random() < 0.9);
							ELSIF r < 0.8 THEN
								PERFORM jobqueue.release(h.id, h.attempt);
							ELSIF r < 0.86 THEN
								PERFORM jobqueue.snooze(h.id, h.attempt, random() * interval '30 ms');
							ELSIF r < 0.88 THEN
								PERFORM jobqueue.discard(h.id, h.attempt, 'no');
							ELSIF r < 0.92 THEN
								PERFORM jobqueue.extend_lease(h.id, h.attempt, '2 s');
								CONTINUE;
							ELSIF r < 0.95 THEN
								PERFORM jobqueue.cancel(h.id);
							ELSIF r < 0.96 THEN
								PERFORM jobqueue.cancel(l.id) FROM (SELECT l.id FROM jobqueue.tasks_live l WHERE l.queue
									IN ('r1', 'r2') ORDER BY random() LIMIT 1) l;
								CONTINUE;
							ELSIF r < 0.97 THEN
								PERFORM jobqueue.retry(l.id) FROM (SELECT l.id FROM jobqueue.tasks_live l WHERE l.queue
									IN ('r1', 'r2') AND l.status = 'scheduled' ORDER BY random() LIMIT 1) l;
								CONTINUE;
							ELSIF r < 0.98 THEN
								UPDATE jobqueue.tasks SET status = 'pending' WHERE id = h.id AND status = 'processing'
									AND attempts = h.attempt;
							ELSIF r < 0.99 THEN
								DELETE FROM jobqueue.tasks WHERE id = h.id AND status = 'processing'
									AND attempts = h.attempt;
							ELSE
								UPDATE jobqueue.tasks SET status = 'completed' WHERE id = h.id AND status = 'processing'
									AND attempts = h.attempt;
							END IF;
							DELETE FROM held WHERE id = h.id AND attempt = h.attempt;
						END IF;
						IF random() < 0.1 THEN
							PERFORM pg_sleep(random() * 0.01);
						END IF;
					END LOOP;
					IF back THEN
						RAISE division_by_zero;
					END IF;
				EXCEPTION
					WHEN division_by_zero OR deadlock_detected THEN
				END;
			END LOOP;
			IF random() < 0.15 THEN
				ROLLBACK;
			ELSE
				COMMIT;
			END IF;
		END LOOP;
	END $$;
	-- What everybody sees at any time.
	CREATE PROCEDURE watcher(until timestamptz) LANGUAGE plpgsql AS $$
	BEGIN
		WHILE clock_timestamp() < until LOOP
			INSERT INTO trouble (what) SELECT format('%s %s: %s processing: %s', queue, group_key, count(*),
				array_agg(id)) FROM jobqueue.tasks_live
				WHERE status = 'processing' AND queue IN ('r1', 'r2') GROUP BY queue,
				group_key HAVING count(*) > 1 AND group_key IS NOT NULL;
			INSERT INTO trouble (what) SELECT format('r2: %s processing', count(*)) FROM jobqueue.tasks_live
				WHERE status = 'processing' AND queue = 'r2' HAVING count(*) > 4;
			INSERT INTO trouble (what) SELECT format('fickle2: %s processing', count(*)) FROM jobqueue.tasks_live
				WHERE status = 'processing' AND type = 'fickle2' HAVING count(*) > 3;
			COMMIT;
			PERFORM pg_sleep(0.002);
		END LOOP;
	END $$;
	SELECT count(jobqueue.enqueue((ARRAY['fickle', 'fickle2'])[1 + n % 2], jsonb_build_object('n', n), q,
		group_key => (ARRAY['a', 'b', 'c', 'd', 'e', 'f', NULL])[1 + n % 7]))
	FROM generate_series(1, 15000) n, unnest('{r1,r2}'::text[]) q;
SQL
	my $seconds = 8 * ($scale > 1 ? 5 : 1);
	my @outsiders = map { start_session(sprintf "CALL outsider(%f, now() + '%d s', 'out%d')", rand, $seconds,
		$_) } 1 .. 4;
	my $watcher = start_session("CALL watcher(now() + '$seconds s')");
	my $end = time + $seconds - 1;
	my $terminated = 0;
	while (time < $end) {
		$terminated += sql(q{SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE }
			. q{backend_type = 'jobqueue worker' ORDER BY random() LIMIT 1) w});
		sql(q{SELECT jobqueue.pause_queue('r1')}), usleep(30_000), sql(q{SELECT jobqueue.resume_queue('r1')})
			if rand() < 0.3;
		usleep(rand 300_000);
	}
	finish_session($_, 'at random: a session') for @outsiders;
	finish_session($watcher, 'at random: the watcher');
	note "workers terminated: $terminated";
	note 'done meanwhile: ', sql('SELECT count(*) FILTER (WHERE delta = 1), (SELECT count(*) FROM ran) FROM claimed');
	is(sql('SELECT what FROM trouble ORDER BY at LIMIT 5'), '', 'at random: no snapshot shows too many');
	never_more(1, "queue || ' ' || grp", 'grp IS NOT NULL', 'at random: never two of a group at once');
	never_more(4, 'queue', "queue = 'r2'", 'at random: never more than max_running of a queue');
	never_more(3, 'type', "type = 'fickle2'", 'at random: never more than max_running of a type');
	is(sql(<<'SQL'), '', 'at random: in order');
	SELECT * FROM (SELECT *, max(task) OVER (PARTITION BY queue, grp ORDER BY begins ROWS BETWEEN UNBOUNDED PRECEDING
		AND 1 PRECEDING) AS ahead
		FROM spans WHERE grp IS NOT NULL) s WHERE ahead > task ORDER BY begins LIMIT 5
SQL
	# Nothing is stuck: what is left runs, by workers alone.
	sql(q{DELETE FROM jobqueue.tasks_live WHERE queue IN ('r1', 'r2') AND status IN ('pending', 'scheduled') AND id }
		. q{% 20 <> 0});
	my $left = sql(q{SELECT count(*) FROM jobqueue.tasks_live WHERE queue IN ('r1', 'r2')});
	my $since = time;
	empties(q{queue IN ('r1', 'r2')}, "at random: the $left that are left run");
	note sprintf 'the rest: %.1f s', time - $since;
	sql('DROP TRIGGER log_claim ON jobqueue.tasks_live');
}

# --------------------------------------------------------------------------------------------------------------------
# kill -9 of the server, while some is claimed from outside

sub crash {
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.alter_queue('crash-m', max_running => 2);
	SELECT jobqueue.alter_queue('crash-r', rate_limit => 2, rate_period => '1 h', rate_burst => 5);
	SELECT count(jobqueue.enqueue('outside', to_jsonb(n), 'crash-g', group_key => 'g')) FROM generate_series(1, 5) n;
	SELECT count(jobqueue.enqueue('outside', to_jsonb(n), 'crash-m')) FROM generate_series(1, 5) n;
	SELECT count(jobqueue.enqueue('outside', to_jsonb(n), 'crash-r')) FROM generate_series(1, 9) n;
	SELECT count(jobqueue.enqueue('note', jsonb_build_object('n', n, 'sleep', 0.01), 'crash-w',
		group_key => 'g' || n % 3)) FROM generate_series(1, 300) n;
SQL
	wait_sql($node, 'app', "SELECT count(*) = 1 FROM jobqueue.claim('crash-m', 1, claimed_by => 'first')", 't',
		'crash: one of two is claimed');
	sql("SELECT * FROM jobqueue.claim('crash-g', 10)");
	$node->stop('immediate');
	$node->start;
	# The first moment matters: the running tasks have not been counted yet.
	is(sql("SELECT count(*) FROM jobqueue.claim('crash-g', 10)"), '0', 'crash: the group is still busy');
	my $more = sql("SELECT count(*) FROM jobqueue.claim('crash-m', 10)");
	wait_sql($node, 'app', "SELECT count(*) + $more = 1 FROM jobqueue.claim('crash-m', 10)", 't',
		'crash: there is room for one more') if !$more;
	is(sql("SELECT count(*) FROM jobqueue.tasks_live WHERE queue = 'crash-m' AND status = 'processing'"), '2',
		'crash: as many as may be');
	is(sql("SELECT count(*) FROM jobqueue.claim('crash-m', 10)"), '0', 'crash: and no more');
	# buckets are empty after a restart: with 2 in an hour nothing begins
	is(sql("SELECT count(*) FROM jobqueue.claim('crash-r', 10)"), '0', 'crash: the bucket is empty');
	is(sql("SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks_live WHERE queue = 'crash-g' AND status = "
		. "'processing'"), 't', 'crash: the claim is still good');
	wait_sql($node, 'app', "SELECT payload FROM jobqueue.claim('crash-g', 10)", '2', 'crash: the next of the group');
	is(sql("SELECT count(*) FROM jobqueue.claim('crash-r', 10)"), '0', 'crash: the bucket is still empty');
	sql("SELECT jobqueue.alter_queue('crash-r', weight => 2)");
	wait_sql($node, 'app',
		"SELECT jobqueue.enqueue('outside', queue => 'tick', group_key => 'w') > 0 AND EXISTS (SELECT 1 FROM "
			. "jobqueue.claim('tick'))", 't', 'crash: changed');
	is(sql("SELECT count(*) FROM jobqueue.claim('crash-r', 10)"), '0', 'crash: changing its weight does not fill it');
	empties(q{queue = 'crash-w'}, 'crash: the workers go on');
	never_more(1, 'grp', "queue = 'crash-w'", 'crash: never two of a group at once');
	is(sql(q{SELECT count(*), count(DISTINCT n) FROM ran WHERE queue = 'crash-w'}), '300|300', 'crash: each once');
	is(sql(q{SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY grp ORDER BY seq) AS before FROM ran WHERE }
		. q{queue = 'crash-w') r WHERE before > n}), '0', 'crash: in order');

	sql("SELECT jobqueue.purge_queue(q), jobqueue.cancel_tasks(queue => q) FROM "
		. "unnest('{crash-g,crash-m,crash-r}'::text[]) q");
}

# --------------------------------------------------------------------------------------------------------------------
# Very many groups that may not go on: those that wait for a retry, those whose bucket is empty. Limits hold all the
# same, and others go on.

sub many {
	sql(<<'SQL');
	SELECT jobqueue.alter_queue('many', group_rate_limit => 1, group_rate_period => '1 d');
	SELECT count(jobqueue.enqueue('outside', queue => 'many', group_key => 'g' || n)) FROM generate_series(1, 70000) n;
	SELECT count(jobqueue.enqueue('outside', queue => 'retries', group_key => 'g' || n))
		FROM generate_series(1, 40000) n;
SQL
	my $loop = sub { my ($queue, $call) = @_; return <<"SQL" };
	DO \$\$ DECLARE n int; idle int := 0; BEGIN
		WHILE idle < 20 LOOP
			SELECT count($call) INTO n FROM jobqueue.claim('$queue', 1000);
			COMMIT;
			idle := CASE WHEN n = 0 THEN idle + 1 ELSE 0 END;
			IF n = 0 THEN PERFORM pg_sleep(0.02); END IF;
		END LOOP;
	END \$\$
SQL
	sql($loop->('retries', "jobqueue.fail(id, attempts, 'no', retry_in => '1 h')"));
	is(sql(q{SELECT count(*) FROM jobqueue.tasks_live WHERE queue = 'retries' AND status = 'pending'}), '0',
		'many groups: each has begun, and waits for its retry');
	sql($loop->('many', 'jobqueue.complete(id, attempts)'));
	sql(q{SELECT count(jobqueue.enqueue('outside', to_jsonb(n), 'few', group_key => 'g')) FROM generate_series(1, }
		. q{3) n});
	is(sql("SELECT count(*) FROM jobqueue.claim('few', 10)"), '1', 'many groups: another queue goes on');
	is(sql("SELECT count(*) FROM jobqueue.claim('few', 10)"), '0', 'many groups: and keeps to its limit');
	sql("SELECT jobqueue.alter_queue('many', group_rate_limit => 0); SELECT jobqueue.cancel_tasks(queue => q, "
		. "max_tasks => 1000000) FROM unnest('{few,many,retries}'::text[]) q");
}

# --------------------------------------------------------------------------------------------------------------------
# Rates

# Of what a query lists as (at): how many began, the worst of all windows over burst + rate * w, and for how long.
sub check_rate {
	my ($times, $rate, $burst, $seconds, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# A window that begins just before one of them and ends with another: the count less rate * w is greatest at i..j.
	# With x(i) = i - rate * t(i), the most is max over j of x(j) - min of x(i) before it, + 1.
	my ($n, $excess, $span) = split /\|/, sql(<<"SQL");
		WITH t AS (SELECT at, row_number() OVER (ORDER BY at) AS i FROM ($times) a),
			x AS (SELECT at, i - $rate * extract(epoch FROM at - (SELECT min(at) FROM t)) AS x, i FROM t),
			y AS (SELECT x - min(x) OVER (ORDER BY i) + 1 AS y FROM x)
		SELECT (SELECT count(*) FROM t), (SELECT round(max(y), 2) FROM y),
			(SELECT round(extract(epoch FROM max(at) - min(at)), 2) FROM t)
SQL
	note "$name: $n in $span s, at most $excess over the rate in any window";
	cmp_ok($excess, '<=', $burst, "$name: no window has more than burst + rate * w");
	cmp_ok($n, '>=', 0.95 * $rate * $seconds, "$name: and at least 95 % of it") if $seconds;
}

sub rates {
	my $seconds = $scale > 1 ? 60 : 8;
	# full of work, with four workers and two outside claimers, for long enough
	sql(<<'SQL');
	TRUNCATE ran;
	CREATE TABLE begun (task bigint, queue text, at timestamptz, who text);
	CREATE FUNCTION begin_it(task jobqueue.tasks) RETURNS void LANGUAGE sql AS $$
		INSERT INTO public.begun VALUES (task.id, task.queue, task.processed_at, 'worker ' || pg_backend_pid()) $$;
	SELECT jobqueue.register_handler('begin', 'begin_it(jobqueue.tasks)');
	SELECT jobqueue.register_handler('limited', 'begin_it(jobqueue.tasks)', rate_limit => 40, rate_burst => 5);
	CREATE PROCEDURE claimer(q text, n int, until timestamptz) LANGUAGE plpgsql AS $$
	DECLARE
		got int;
	BEGIN
		WHILE clock_timestamp() < until LOOP
			WITH c AS (SELECT * FROM jobqueue.claim(q, n, claimed_by => 'out', types => ARRAY['begin', 'limited'])),
				i AS (
				INSERT INTO begun SELECT id, queue, processed_at, 'outside ' || pg_backend_pid() FROM c)
			SELECT count(jobqueue.complete(id, attempts)) INTO got FROM c;
			COMMIT;
			IF got = 0 THEN
				PERFORM pg_sleep(0.002);
			END IF;
		END LOOP;
	END $$;
	SELECT jobqueue.pause_queue(NULL);
	SELECT jobqueue.alter_queue('rate', rate_limit => 100);
	SELECT jobqueue.alter_queue('rate-g', group_limit => 100, group_rate_limit => 20, group_rate_period => '2 s',
		group_rate_burst => 3);
SQL
	sql("SELECT count(jobqueue.enqueue('begin', queue => 'rate')) FROM generate_series(1, 100 * $seconds * 2)");
	sql("SELECT count(jobqueue.enqueue('limited', queue => q)) FROM generate_series(1, 20 * $seconds * 2), "
		. "unnest('{rate-t1,rate-t2}'::text[]) q");
	sql("SELECT count(jobqueue.enqueue('begin', queue => 'rate-g', group_key => g)) FROM generate_series(1, 10 * "
		. "$seconds * 2), unnest('{a,b}'::text[]) g");
	sql('SELECT jobqueue.resume_queue(NULL)');
	my @claimers = map { start_session("CALL claimer('$_->[0]', $_->[1], now() + '@{[ $seconds + 1 ]} s')") } [ 'rate',
		1 ], [ 'rate', 7 ], [ 'rate-g', 3 ], [ 'rate-t1', 2 ];
	finish_session($_, 'rates: a claimer') for @claimers;
	is(sql(q{SELECT count(*) > 0 FROM jobqueue.tasks_live WHERE queue = 'rate' AND status = 'pending'}), 't',
		'rates: there was enough to do');
	# of each, from its first on
	my $part =
		sub { my ($where) = @_;
			return "SELECT at FROM begun WHERE $where AND at < (SELECT min(at) + interval '$seconds s' FROM begun "
				. "WHERE $where)" };
	check_rate($part->("queue = 'rate'"), 100, 100, $seconds, 'rate of a queue');
	check_rate($part->("queue LIKE 'rate-t%'"), 40, 5, $seconds, 'rate of a type');
	for my $g ('a', 'b') {
		check_rate($part->("task IN (SELECT id FROM jobqueue.tasks WHERE queue = 'rate-g' AND group_key = '$g')"), 10,
			3, $seconds, "rate of group $g");
	}
	is(sql(q{SELECT count(DISTINCT split_part(who, ' ', 1)) FROM begun WHERE queue = 'rate'}), '2',
		'rates: workers and claimers had some of it');
	note 'who: ',
		sql(q{SELECT string_agg(who || ' ' || n, ', ') FROM (SELECT who, count(*) AS n FROM begun WHERE queue = }
			. q{'rate' GROUP BY who) w});

	# claims that are given back, or rolled back, do not make it faster; nor do changes of other settings
	sql(q{SELECT jobqueue.purge_queue(q) FROM unnest('{rate,rate-t1,rate-t2,rate-g}'::text[]) q; TRUNCATE begun;
		SELECT jobqueue.alter_queue('back', rate_limit => 50, rate_burst => 10); SELECT }
			. q{count(jobqueue.enqueue('outside', queue => 'back')) FROM generate_series(1, 500)});
	sql(<<'SQL');
	CREATE PROCEDURE giver(until timestamptz, other text) LANGUAGE plpgsql AS $$
	DECLARE
		t record;
	BEGIN
		WHILE clock_timestamp() < until LOOP
			FOR t IN SELECT * FROM jobqueue.claim('back', 3) LOOP
				INSERT INTO begun VALUES (t.id, 'back', t.processed_at, 'giver');
				PERFORM jobqueue.release(t.id, t.attempts);
			END LOOP;
			PERFORM jobqueue.alter_queue(other, weight => 1 + (random() * 100)::int) WHERE random() < 0.05;
			COMMIT;
		END LOOP;
	END $$;
SQL
	my @givers = map { start_session("CALL giver(now() + '3 s', '$_')") } 'elsewhere', 'back';
	finish_session($_, 'given back: a claimer') for @givers;
	check_rate("SELECT at FROM begun WHERE queue = 'back'", 50, 10, 0, 'given back');
	sql(q{SELECT jobqueue.purge_queue('back')});
}

# --------------------------------------------------------------------------------------------------------------------
# max_running up and down; others are not delayed; CPU

sub max_running {
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.alter_queue('m', max_running => 2);
	-- more than can be run between two looks
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.01}', 'm')) FROM generate_series(1, 20000);
SQL
	for my $n (1, 3, 0, 2) {
		sql("SELECT jobqueue.alter_queue('m', max_running => $n)");
		# those that were running when it was lowered have ended by the time 60 more have
		my $before = sql('SELECT count(*) FROM ran');
		wait_sql($node, 'app', "SELECT count(*) >= $before + 60 FROM ran WHERE queue = 'm'", 't',
			"max_running $n: they run");
		my $from = sql('SELECT clock_timestamp()');
		wait_sql($node, 'app', "SELECT count(*) >= 60 FROM ran WHERE queue = 'm' AND begins > '$from'", 't',
			"max_running $n: they run on");
		is(sql(<<"SQL"), $n || 4, "max_running $n: so many at once, and not fewer");
			WITH r AS (SELECT * FROM ran WHERE queue = 'm' AND begins > '$from')
			SELECT max(n) FROM (SELECT sum(delta) OVER (ORDER BY at, delta) AS n FROM (
				SELECT begins AS at, 1 AS delta FROM r UNION ALL SELECT ends, -1 FROM r) s) t
SQL
	}
	sql("SELECT jobqueue.purge_queue('m')");
	empties("queue = 'm'", 'max_running: what was under way has ended');
}

sub others {
	# three queues that wait, each for something else, and workers that idle beside them
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.alter_queue('busy', max_running => 1);
	SELECT jobqueue.alter_queue('empty', rate_limit => 1, rate_period => '1 h');
	SELECT count(jobqueue.enqueue('note', queue => 'empty')) FROM generate_series(1, 2000);
	SELECT jobqueue.enqueue('outside', queue => 'group', group_key => 'g');
	SELECT jobqueue.enqueue('outside', queue => 'busy');
SQL
	wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.claim('$_', 1, lease => '1 h')", '1',
		"others: claimed from $_") for 'group', 'busy';
	sql(<<'SQL');
	SELECT count(jobqueue.enqueue('note', queue => 'group', group_key => 'g')) FROM generate_series(1, 2000);
	SELECT count(jobqueue.enqueue('note', queue => 'busy')) FROM generate_series(1, 2000);
SQL
	$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1h'");
	$node->reload;
	for my $n (1 .. 20) {
		my $id = sql("SELECT jobqueue.enqueue('note', queue => 'free')");
		wait_for(sub { sql("SELECT status = 'completed' FROM jobqueue.tasks WHERE id = $id") eq 't' })
			or fail('others: a queue without limits goes on'), last;
	}
	my ($awake) = watch_idle($node, 4);
	is_seldom_awake($awake, 60, 'waiting for a group, a full queue, an empty bucket: hardly ever awake');
	# and each of them goes on at once when it may, though the next poll is an hour away
	sql(q{SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks_live WHERE status = 'processing' AND queue IN }
		. q{('group', 'busy')});
	wait_sql($node, 'app', q{SELECT count(*) = 0 FROM jobqueue.tasks_live WHERE queue IN ('group', 'busy')}, 't',
		'others: woken, not polled');
	$node->append_conf('postgresql.conf', "jobqueue.poll_interval = '1s'");
	$node->reload;
	sql(q{SELECT jobqueue.purge_queue('empty')});
}

# --------------------------------------------------------------------------------------------------------------------
# Weights, strict order, aging

sub weights {
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.pause_queue(NULL);
	SELECT jobqueue.alter_queue('w1', weight => 1);
	SELECT jobqueue.alter_queue('w3', weight => 3);
	SELECT jobqueue.alter_queue('w6', weight => 6);
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.001}', q)) FROM generate_series(1, 1500),
		unnest('{w1,w3,w6}'::text[]) q;
	SELECT jobqueue.resume_queue(NULL);
SQL
	wait_sql($node, 'app', q{SELECT count(*) >= 1200 FROM ran WHERE queue LIKE 'w%'}, 't', 'weights: they run');
	my %share = map { split /\|/ } split /\n/,
		sql(q{SELECT queue, count(*) FROM (SELECT queue FROM ran WHERE queue LIKE 'w%' ORDER BY begins LIMIT 1000) }
			. q{r GROUP BY queue});
	note join ' ', %share;
	cmp_ok(abs(($share{w1} // 0) - 100), '<', 50, 'weights: 1 of 10');
	cmp_ok(abs(($share{w3} // 0) - 300), '<', 90, 'weights: 3 of 10');
	cmp_ok(abs(($share{w6} // 0) - 600), '<', 120, 'weights: 6 of 10');
	sql(q{SELECT jobqueue.purge_queue(q) FROM unnest('{w1,w3,w6}'::text[]) q});
	$node->append_conf('postgresql.conf', "jobqueue.queue_order = 'strict'");
	$node->reload;
	wait_sql($node, 'app', 'SHOW jobqueue.queue_order', 'strict', 'strict order');
	empties(q{queue LIKE 'w%'}, 'strict: nothing is left of before');
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.pause_queue(NULL);
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.001}', q)) FROM generate_series(1, 400),
		unnest('{w1,w3,w6}'::text[]) q;
	SELECT jobqueue.resume_queue(NULL);
SQL
	empties(q{queue LIKE 'w%'}, 'strict: all have run');
	# four workers: those of the lower one may begin while the others still run what they have claimed of the higher one
	is(sql(<<'SQL'), '0', 'strict: the higher weight always first');
		SELECT count(*) FROM ran r JOIN (SELECT queue, begins,
			row_number() OVER (PARTITION BY queue ORDER BY begins DESC) AS rank FROM ran) h
			ON h.queue > r.queue AND h.begins > r.begins AND h.rank > 3 * 64
SQL
	$node->append_conf('postgresql.conf', "jobqueue.queue_order = 'weighted'");
	$node->reload;

	# aging: what has waited long enough makes up for its priority, while there are many that are more important
	sql(<<'SQL');
	TRUNCATE ran;
	SELECT jobqueue.pause_queue(NULL);
	SELECT jobqueue.alter_queue('aging', max_running => 1, aging => '100 ms');
	SELECT jobqueue.alter_queue('starving', max_running => 1);
	SELECT count(jobqueue.enqueue('note', '{"sleep": 0.004}', q, priority => 0)) FROM generate_series(1, 5000),
		unnest('{aging,starving}'::text[]) q;
	SELECT jobqueue.enqueue('note', '{"n": 77}', q, priority => 10) FROM unnest('{aging,starving}'::text[]) q;
	SELECT jobqueue.resume_queue(NULL);
SQL
	wait_sql($node, 'app', "SELECT count(*) FROM ran WHERE queue = 'aging' AND n = 77", '1',
		'aging: a low priority is not starved');
	is(sql("SELECT count(*) > 0 FROM jobqueue.tasks_live WHERE queue = 'aging'"), 't',
		'aging: it did not wait until all others had run');
	my ($starved, $others) = split /\|/,
		sql("SELECT (SELECT count(*) FROM ran WHERE queue = 'starving' AND n = 77), (SELECT count(*) > 1 FROM "
			. "jobqueue.tasks_live WHERE queue = 'starving')");
	is($starved, '0', 'aging: without, it is starved') if $others eq 't';
	is(sql(q{SELECT begins - created_at >= '1 s' FROM ran JOIN jobqueue.tasks ON id = task WHERE ran.queue = }
		. q{'aging' AND n = 77}), 't', 'aging: not before 10 steps');
	sql(q{SELECT jobqueue.purge_queue(q) FROM unnest('{aging,starving}'::text[]) q});
}

# --------------------------------------------------------------------------------------------------------------------

my %part = (groups => \&groups, fair => \&fair, at_random => \&at_random, crash => \&crash, rates => \&rates,
	max_running => \&max_running,
	others => \&others, weights => \&weights, many => \&many);
$part{$_}->() for split / /, $ENV{LIMITS_PARTS} // 'groups fair at_random crash rates max_running others weights many';
done_testing();
