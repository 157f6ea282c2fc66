# Workers outside, many at once and each new to the server: every task goes to one of them, also while other sessions
# lock its row.
#
# - claims that meet each other, transactions that roll back, rows that others lock, change or delete by hand
# - each task is completed by exactly one claim; one that was rolled back is claimed again
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $tasks = 20_000;
my $node = start_node('outside', autovacuum => 'off', fsync => 'off', 'jobqueue.poll_interval' => '100ms');
create_queue($node, 'postgres');
$node->safe_psql('postgres', <<"SQL");
	CREATE TABLE claimed (task bigint, attempt integer, PRIMARY KEY (task, attempt));
	CREATE TABLE done (task bigint PRIMARY KEY);
	CREATE PROCEDURE work() LANGUAGE plpgsql AS \$\$
	DECLARE
		ids bigint[];
		tries integer[];
	BEGIN
		SELECT array_agg(id), array_agg(attempts) INTO ids,
			tries FROM jobqueue.claim(max_tasks => 1 + (random() * 60)::integer);
		IF ids IS NULL THEN
			PERFORM pg_sleep(0.01); -- what was locked by hand is found by the poll
			RETURN;
		END IF;
		INSERT INTO claimed SELECT * FROM unnest(ids, tries);
		IF random() < 0.2 THEN
			ROLLBACK;
			RETURN;
		END IF;
		IF random() < 0.5 THEN
			COMMIT;
		END IF;
		INSERT INTO done SELECT * FROM jobqueue.complete_many(ids, tries);
	END \$\$;
	CREATE PROCEDURE meddle() LANGUAGE plpgsql AS \$\$
	DECLARE
		mine bigint[] := ARRAY(SELECT id FROM jobqueue.tasks WHERE status = 'pending' ORDER BY id
			LIMIT 20 OFFSET (random() * 40)::integer FOR UPDATE SKIP LOCKED);
	BEGIN
		PERFORM pg_sleep(0.002);
		IF random() < 0.2 THEN
			INSERT INTO done SELECT * FROM unnest(mine);
			DELETE FROM jobqueue.tasks WHERE id = ANY (mine);
		ELSIF random() < 0.5 THEN
			UPDATE jobqueue.tasks SET metadata = '{}' WHERE id = ANY (mine);
		END IF;
	END \$\$;
	INSERT INTO jobqueue.tasks (type, payload) SELECT 'outside', to_jsonb(n) FROM generate_series(1, $tasks) n;
SQL
for my $retention ('1h', '0') {
	$node->append_conf('postgresql.conf', "jobqueue.completed_retention = '$retention'");
	$node->reload;
	wait_sql($node, 'postgres', "SELECT current_setting('jobqueue.completed_retention')", $retention,
		"completed_retention = $retention");
	$node->pgbench('--no-vacuum --connect --client=6 --transactions=40', 0, [qr{processed: 240/240}], [qr{^$}],
		"beside each other, completed_retention = $retention",
		{ "030_work_$retention\@9" => 'CALL work();', "030_meddle_$retention\@1" => 'CALL meddle();' });
}
my $left = $node->safe_psql('postgres', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'pending'");
cmp_ok($left, '<', $tasks, "some were done, $left are left");
$node->safe_psql('postgres', <<"SQL");
	DO \$\$ BEGIN
		WHILE EXISTS (SELECT 1 FROM jobqueue.tasks WHERE status IN ('pending', 'processing')) LOOP
			CALL work();
			COMMIT;
		END LOOP;
	END \$\$;
SQL
is($node->safe_psql('postgres', 'SELECT count(*) FROM done'), $tasks, 'each was done once');
is($node->safe_psql('postgres',
	'SELECT count(*) FROM claimed c WHERE NOT EXISTS (SELECT 1 FROM done d WHERE d.task = c.task)'), 0,
		'all that were claimed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM jobqueue.tasks_live'), 0, 'nothing is left');
is(unexpected_in_log($node), '', 'nothing unexpected in the log');
$node->stop;
done_testing();
