# B2: a row that fails whatever is done to it stops none of the others, in no batch of the housekeeping; the log names
# it once; and when it can be handled again, it is. The fallback poll is an hour away: nothing that is waited for here
# comes about by one, nor by anybody's commit.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('aside', autovacuum => 'off', 'jobqueue.poll_interval' => '1h',
	'jobqueue.completed_retention' => '1d', 'jobqueue.max_workers' => 2);
create_queue($node, 'app');
sub sql { return $node->safe_psql('app', shift); }
sub poll { $node->reload; }

sub soon {
	my ($query, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node, 'app', $query, 't', $name);
}

# A trigger of an administrator's that does not like some rows, whatever our processes do to them. What it minds is in a
# table.
sql(<<'SQL');
	CREATE TABLE minds (type text, what text DEFAULT 'is poison');
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		of text = to_jsonb(coalesce(OLD, NEW))->>TG_ARGV[0];
		complaint text = (SELECT what FROM public.minds WHERE type = of);
	BEGIN
		IF complaint IS NOT NULL AND (SELECT backend_type LIKE 'jobqueue%' FROM pg_stat_activity
			WHERE pid = pg_backend_pid()) THEN
			RAISE EXCEPTION '% %', of, complaint;
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER refuse AFTER UPDATE OR DELETE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION refuse('type');
	CREATE TRIGGER refuse AFTER DELETE ON jobqueue.tasks_failed FOR EACH ROW EXECUTE FUNCTION refuse('type');
	CREATE TRIGGER refuse AFTER DELETE ON jobqueue.unique_keys FOR EACH ROW EXECUTE FUNCTION refuse('type');
	CREATE TRIGGER refuse AFTER DELETE ON jobqueue.dependents FOR EACH ROW EXECUTE FUNCTION refuse('id');
	CREATE TRIGGER refuse AFTER UPDATE ON jobqueue.schedules FOR EACH ROW EXECUTE FUNCTION refuse('name');
SQL
my $start = log_size($node);

# Tasks that become due at one time, all of them after they have come.
sub add_due {
	my ($type, $queue, $count) = @_;
	sql("SELECT count(jobqueue.enqueue($type, queue => '$queue', run_at => now() + interval '1 s')) FROM "
		. "generate_series(1, $count) i");
}

# The lines that name a row, by what could not be done to it.
sub named {
	my ($what, $type) = @_;
	return scalar log_matches($node, qr/WARNING:.*could not $what task -?\d+: $type is poison/, $start);
}

# One row that fails has been skipped: the log says so once, and the row is handled when the error is gone.
sub heals {
	my ($what, $type, $query) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for(sub { named($what, $type) });
	sql("DELETE FROM minds WHERE type = '$type'");
	soon($query, "B2: $what: the culprit follows when it can");
	is(named($what, $type), 1, "B2: $what: the log has named it once");
}

# -- promotion: first, last, in the middle
sql("INSERT INTO minds SELECT 'due' || n FROM unnest(ARRAY[1, 701, 1500]) n");
add_due("'due' || i", 'q', 1500);
soon("SELECT count(*) = 1497 FROM jobqueue.tasks WHERE queue = 'q' AND status = 'pending'",
	'B2: make due: 3 tasks of 1500 that cannot be made due do not keep the others');
sql("SELECT jobqueue.enqueue('later', queue => 'later', delay => '10 ms')");
soon("SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'later'", 'B2: make due: nor those that come later');
heals('make due', "due$_", "SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'due$_'") for 701, 1, 1500;

# -- what is only found at the commit, for who has deferred it
sql("CREATE CONSTRAINT TRIGGER refuse_later AFTER UPDATE ON jobqueue.tasks_live DEFERRABLE INITIALLY DEFERRED FOR "
	. "EACH ROW
	WHEN (OLD.type LIKE 'deferred%') EXECUTE FUNCTION refuse('type')");
sql("DROP TRIGGER refuse ON jobqueue.tasks_live");
sql("INSERT INTO minds VALUES ('deferred50')");
add_due("'deferred' || i", 'q', 100);
soon("SELECT count(*) = 99 FROM jobqueue.tasks WHERE type LIKE 'deferred%' AND status = 'pending'",
	'B2: make due: nor does a constraint that is deferred to the commit');
heals('make due', 'deferred50', "SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'deferred50'");
sql("DROP TRIGGER refuse_later ON jobqueue.tasks_live;
	CREATE TRIGGER refuse AFTER UPDATE OR DELETE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION refuse('type')");

# -- leases
sql("SELECT jobqueue.enqueue('lease' || i, queue => 'l') FROM generate_series(1, 300) i");
sql("INSERT INTO minds VALUES ('lease150')");
is(sql("SELECT count(*) FROM jobqueue.claim('l', 300, '1 ms')"), 300, '300 tasks are claimed');
soon("SELECT count(*) = 299 FROM jobqueue.tasks WHERE queue = 'l' AND status = 'pending'",
	'B2: take back the lease of: one lease of 300 that cannot be ended does not keep the others');
sql("SELECT jobqueue.enqueue('lease2', queue => 'l2'); SELECT count(*) FROM jobqueue.claim('l2', 1, '1 ms')");
soon("SELECT status = 'pending' FROM jobqueue.tasks WHERE queue = 'l2'",
	'B2: take back the lease of: nor one that ends later');
heals('take back the lease of', 'lease150', "SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'lease150'");

# -- what was finished by hand: a check of an administrator's on a table of the history
sql("ALTER TABLE jobqueue.tasks_history_$_ ADD CONSTRAINT mine CHECK (type <> 'hand50') NOT VALID") for 1 .. 8;
sql("INSERT INTO jobqueue.tasks (type, queue) SELECT 'hand' || i, 'h' FROM generate_series(1, 100) i; UPDATE "
	. "jobqueue.tasks SET status = 'completed' WHERE queue = 'h'");
soon("SELECT count(*) = 99 FROM jobqueue.tasks WHERE queue = 'h' AND slot > 0",
	'B2: archive: one of 100 tasks that cannot be archived does not keep the others');
wait_for(sub { log_matches($node, qr/could not archive task \d+:.*violates check constraint "mine"/, $start) });
is(scalar log_matches($node, qr/could not archive task \d+:.*violates check constraint "mine"/, $start), 1,
	'B2: archive: the log has named it once');
sql("ALTER TABLE jobqueue.tasks_history_$_ DROP CONSTRAINT mine") for 1 .. 8;
soon("SELECT slot > 0 FROM jobqueue.tasks WHERE type = 'hand50'", 'B2: archive: the culprit follows when it can');

# -- dependencies; the poisonous one waits for two others
sql("INSERT INTO minds VALUES ('child40')");
sql(<<'SQL');
	SELECT jobqueue.enqueue('parent', queue => 'p') FROM generate_series(1, 2);
	SELECT jobqueue.enqueue('child' || i, queue => 'c',
		after => (SELECT array_agg(id) FROM jobqueue.tasks WHERE type = 'parent')) FROM generate_series(1, 100) i;
	SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('p', 2);
SQL
soon("SELECT count(*) = 99 FROM jobqueue.tasks WHERE queue = 'c' AND status = 'pending'",
	'B2: unblock: one of 100 tasks that cannot be unblocked does not keep the others');
sql("SELECT jobqueue.enqueue('after', queue => 'c2', after => ARRAY[jobqueue.enqueue('parent2', queue => 'p')]); "
	. "SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('p')");
soon("SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'after'", 'B2: unblock: nor what waits for others');
heals('unblock', 'child40', "SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'child40'");

# -- retention of failed tasks, keys whose period is over, what was kept for dependents: looked for by polls only
sql(<<'SQL');
	INSERT INTO minds VALUES ('old50'), ('key50'), ('1000050');
	INSERT INTO jobqueue.tasks_failed (id, type, status, slot, finished_at) SELECT -i, 'old' || i, 'failed', -1,
		now() - interval '2 days' FROM generate_series(1, 100) i;
	INSERT INTO jobqueue.unique_keys (type, unique_key, task_id, expires_at) SELECT 'key' || i, 'k', -i,
		now() - interval '2 days' FROM generate_series(1, 100) i;
	INSERT INTO jobqueue.dependents (id, parents, waits_for, on_parent_failure)
		SELECT 1000000 + i, ARRAY[1], 0, 'run' FROM generate_series(1, 100) i;
SQL
$node->append_conf('postgresql.conf', "jobqueue.failed_retention = '1d'");
poll();
soon("SELECT count(*) = 1 FROM jobqueue.tasks_failed",
	'B2: purge: one of 100 failed tasks that cannot be removed does not keep the others');
heals('purge', 'old50', 'SELECT count(*) = 0 FROM jobqueue.tasks_failed');
soon("SELECT count(*) = 1 FROM jobqueue.unique_keys",
	'B2: remove the unique key of: one of 100 that cannot be removed does not keep the others');
heals('remove the unique key of', 'key50', 'SELECT count(*) = 0 FROM jobqueue.unique_keys');
soon("SELECT count(*) = 1 FROM jobqueue.dependents WHERE id > 1000000",
	'B2: forget the parents of: one of 100 that cannot be removed does not keep the others');
heals('forget the parents of', '1000050', 'SELECT count(*) = 0 FROM jobqueue.dependents WHERE id > 1000000');

# -- tasks of workers that no longer exist
sql(<<'SQL');
	INSERT INTO minds VALUES ('orphan3');
	INSERT INTO jobqueue.tasks_live (type, queue, status, attempts, processed_at, lease_expires_at, claimed_by)
	SELECT 'orphan' || n, 'o', 'processing', 1, now(), 'infinity', 'worker 0.0.' || n FROM generate_series(1, 50) n;
SQL
poll();
soon("SELECT count(*) = 49 FROM jobqueue.tasks WHERE queue = 'o' AND status = 'pending'",
	'B2: take back from its worker: one of 50 that cannot be taken back does not keep the others');
heals('take back from its worker', 'orphan3', "SELECT status = 'pending' FROM jobqueue.tasks WHERE type = 'orphan3'");

# -- schedules: one whose row cannot be changed, one whose tasks cannot be added
sql(<<'SQL');
	INSERT INTO minds VALUES ('a-poison');
	CREATE FUNCTION refuse_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no such tasks';
		END $$;
	CREATE CONSTRAINT TRIGGER refuse_insert AFTER INSERT ON jobqueue.tasks_live DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (NEW.type = 'fired-b') EXECUTE FUNCTION refuse_insert();
	SELECT jobqueue.schedule(name || '-poison', '* * * * * *', 'fired-' || name) FROM unnest(ARRAY['a', 'b']) name;
	SELECT jobqueue.schedule('good' || i, '* * * * * *', 'fired', on_overlap => 'skip') FROM generate_series(1, 20) i;
SQL
soon("SELECT count(*) = 20 FROM jobqueue.schedules WHERE name LIKE 'good%' AND last_run_at IS NOT NULL",
	'B2: schedules: two that cannot fire do not stop the others');
soon("SELECT last_error = 'no such tasks' FROM jobqueue.schedules WHERE name = 'b-poison'",
	'B2: schedules: one says so, though its trouble comes with the commit');
sql("DELETE FROM minds; DROP TRIGGER refuse_insert ON jobqueue.tasks_live");
soon("SELECT count(*) = 2 FROM jobqueue.schedules WHERE name LIKE '%-poison' AND last_run_at IS NOT NULL AND "
	. "last_error IS NULL", 'B2: schedules: they fire when they can');
is(scalar log_matches($node, qr/could not fire schedule "$_-poison"/, $start), 1,
	"B2: schedules: the log has named $_-poison once") for 'a', 'b';
sql('SELECT jobqueue.unschedule(name) FROM jobqueue.schedules');

# -- where everything fails, no row is to blame: nothing is set aside one by one, and it heals at once
my $offset = log_size($node);
sql(<<'SQL');
	CREATE FUNCTION refuse_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing goes'; END $$;
	CREATE TRIGGER refuse_all AFTER UPDATE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION refuse_all();
SQL
add_due("'all'", 'a', 3000);
ok(wait_for(sub { log_matches($node, qr/could not make scheduled tasks due and will try again: nothing goes/,
	$offset) }), 'B2: where everything fails, that is said');
is(scalar log_matches($node, qr/could not make due task/, $offset), 0, 'B2: ... and of no task');
sql('DROP TRIGGER refuse_all ON jobqueue.tasks_live');
soon("SELECT count(*) = 3000 FROM jobqueue.tasks WHERE queue = 'a' AND status = 'pending'",
	'B2: ... and all go when they can');

# -- more that cannot be handled, one after the other, than are taken for bad luck
sql("INSERT INTO minds VALUES ('many')");
add_due("CASE WHEN i <= 150 THEN 'many' ELSE 'few' END", 'm', 300);
soon("SELECT count(*) = 150 FROM jobqueue.tasks WHERE type = 'few' AND status = 'pending'",
	'B2: 150 poisonous tasks in a row do not keep the 150 behind them');
cmp_ok(scalar(log_matches($node, qr/could not make due task/, $offset)), '<=', 10,
	'B2: ... and the log does not name all of them');
sql('DELETE FROM minds');
soon("SELECT count(*) = 300 FROM jobqueue.tasks WHERE queue = 'm' AND status = 'pending'", 'B2: ... and they follow');

cmp_ok(log_size($node) - $start, '<', 200_000, 'B2: the log stays small');
is(join("\n", log_matches($node, qr/exit code|signal/, $start)), '', 'B2: nothing has ended the scheduler');

# -- where there is no scheduler, claim() stands in for it
sql(<<'SQL');
	CREATE FUNCTION refuse_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
	CREATE TRIGGER refuse_claim AFTER UPDATE ON jobqueue.tasks_live FOR EACH ROW
		WHEN (OLD.type IN ('poison', 'poison2') AND OLD.status IN ('scheduled', 'blocked'))
			EXECUTE FUNCTION refuse_claim();
	SELECT jobqueue.enqueue('parent3', queue => 'p3');
	SELECT jobqueue.enqueue(CASE i WHEN 5 THEN 'poison2' ELSE 'stand in' END, queue => 's',
		after => (SELECT array_agg(id) FROM jobqueue.tasks WHERE type = 'parent3')) FROM generate_series(1, 10) i;
SQL
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$offset = log_size($node);
sql("INSERT INTO jobqueue.tasks (type, queue, status, run_at) SELECT CASE i WHEN 5 THEN 'poison' ELSE 'stand in' "
	. "END, 's', 'scheduled', now() FROM generate_series(1, 10) i");
is(sql("SELECT count(*) FROM jobqueue.claim('s', 100)"), 9,
	'B2: claim: what cannot be made due does not keep the others, nor the claim');
is(sql("SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('p3')"), 't',
	'a task that others wait for is completed');
is(sql("SELECT count(*) FROM jobqueue.claim('s', 100)"), 9, 'B2: claim: nor does what cannot be unblocked');
is(scalar log_matches($node, qr/LOG:.*could not unblock task \d+: not this one/, $offset), 1,
	"B2: claim: the server's log says so");
is(sql("DROP TRIGGER refuse_claim ON jobqueue.tasks_live; SELECT count(*) FROM jobqueue.claim('s', 100)"), 2,
	'B2: claim: they follow when they can');

$node->stop;
done_testing();
