# Who may read all data of a database can dump all of it, whatever row-level security hides from others.
#
# - a member of pg_read_all_data, and the owner of the database: pg_dump saves every row, as COPY and as INSERT, with
#   row_security off and on, from the primary and from a standby; what is restored is equal
# - other roles get an error, and no dump
# - these roles change nothing, and what goes beyond a dump is not easier for them than it was
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('origin', autovacuum => 'off', init => { allows_streaming => 1 });
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
$node->safe_psql('postgres', <<'SQL');
	CREATE ROLE owns LOGIN;
	CREATE ROLE backup LOGIN IN ROLE pg_read_all_data;
	CREATE ROLE reads LOGIN;
	CREATE ROLE tenant LOGIN;
SQL
create_queue($node, 'app');
$node->safe_psql('app', 'ALTER DATABASE app OWNER TO owns');
create_ledger($node, 'app');
$node->safe_psql('app', <<'SQL');
	GRANT USAGE ON SCHEMA jobqueue TO reads;
	GRANT SELECT ON ALL TABLES IN SCHEMA jobqueue TO reads;
	GRANT SELECT ON jobqueue.tasks_id_seq, public.ledger TO reads;
	-- of two levels in one queue: a role that is subject to policies, and may read all the same
	SELECT jobqueue.grant_access('tenant', l, 'of tenant') FROM unnest('{producer,consumer}'::text[]) l;
	SELECT jobqueue.grant_access('backup', 'producer', 'of backup');
	SELECT jobqueue.limit_role('tenant', max_payload => 10000);
	SELECT jobqueue.schedule('nightly', '0 4 * * *', 'note');
	SELECT jobqueue.pause_queue('paused');
	SELECT jobqueue.enqueue_many('note', array_agg(to_jsonb(n))) FROM generate_series(1, 20) n;
	SELECT jobqueue.enqueue('waits', jsonb_build_object('n', n), queue => 'of tenant') FROM generate_series(1, 20) n;
	SELECT jobqueue.enqueue('child', after => ARRAY[(SELECT max(id) FROM jobqueue.tasks)]);
	SELECT jobqueue.enqueue_unique('unique', unique_key => 'k', unique_for => '1 day');
	SELECT jobqueue.cancel(jobqueue.enqueue('cancelled', queue => 'paused'));
SQL
$node->safe_psql('app', "SELECT jobqueue.enqueue('waits', queue => 'of tenant')", extra_params => [ '-U', 'tenant' ]);
wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE status = 'completed'", 20, 'tasks have been run');
# from now on nothing changes
$node->safe_psql('app', "SELECT jobqueue.unregister_handler('note'); SELECT jobqueue.register_handler('idle', "
	. "'note(jsonb)')");

# Every row of every table that a dump has, without those that belong to the installation.
sub contents {
	my ($database) = @_;
	return $node->safe_psql($database, <<'SQL');
		SELECT c.oid::regclass, x.rows FROM pg_extension e, unnest(e.extconfig) t(oid) JOIN pg_class c USING (oid),
			LATERAL (SELECT query_to_xml(format('SELECT count(*), md5(string_agg(t::text, E''\n'' ORDER BY t::text)) '
				'FROM ONLY %s t', c.oid::regclass), true, false, '') AS rows) x
		WHERE e.extname = 'jobqueue' AND c.relname NOT IN ('incarnation', 'tasks_id_seq') ORDER BY c.relname
SQL
}
my $expected = contents('app');
unlike($expected, qr/jobqueue\.tasks_live\|[^|]*<count>0</, 'there are tasks in the tables');

my $copies = 0;
sub restores {
	my ($name, $from, $role, @options) = @_;
	my $file = "$dir/dump" . ++$copies;
	command_ok([ 'pg_dump', '-h', $from->host, '-p', $from->port, '-U', $role, '-f', $file, @options, 'app' ],
		"$name dumps");
	$node->safe_psql('postgres', "CREATE DATABASE copy$copies");
	my $format = grep { $_ eq '-Fc' } @options;
	my @command = $format ? ('pg_restore', '-e', $file) : ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file);
	command_ok([ @command, '-d', $node->connstr("copy$copies") ], '... it is restored');
	is(contents("copy$copies"), $expected, '... and equal');
	$node->safe_psql('postgres', "DROP DATABASE copy$copies");
}

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
for my $role ('backup', 'owns') {
	# the ledger belongs to a superuser, as other tables of an application may not
	$node->safe_psql('app', "ALTER TABLE ledger OWNER TO $role");
	restores("role $role", $node, $role, '-Fc');
	restores("role $role, with --inserts,", $node, $role, '--inserts');
	restores("role $role, with row_security on,", $node, $role, '--enable-row-security');
	$node->wait_for_catchup($standby);
	restores("role $role, from a standby,", $standby, $role, '-Fc');
}

# --------------------------------------------------------------------------------------------------------------------
# Others

my @dump = ('pg_dump', '-h', $node->host, '-p', $node->port, '-f', "$dir/none");
command_fails_like([ @dump, '-U', 'reads', 'app' ], qr/query would be affected by row-level security policy/,
	'a role that may read the tables, but not all data, gets an error');
command_fails_like([ @dump, '-U', 'tenant', 'app' ], qr/permission denied/, 'a tenant gets an error');

# The SQLSTATE, or the result.
sub attempt {
	my ($role, $sql) = @_;
	my ($code, $out, $err) = $node->psql('app', "\\set VERBOSITY sqlstate\n$sql", extra_params => [ '-U', $role ]);
	return $code == 0 && $err !~ /ERROR/ ? $out : ($err =~ /ERROR:\s+(\w{5})/)[0];
}
$node->safe_psql('app', <<'SQL');
	CREATE TABLE hidden AS SELECT 1 AS n;
	ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
SQL
for my $role ('backup', 'owns') {
	$node->safe_psql('app', "GRANT SELECT ON hidden TO $role");
	is(attempt($role, "SET row_security = off; COPY jobqueue.limits TO STDOUT"), "tenant\t\\N\t\\N\t10000\t\\N",
		"role $role copies a table");
	is(attempt($role, 'SET row_security = off; COPY hidden TO STDOUT'), '42501', '... but not one that is not ours');
	is(attempt($role, 'SET row_security = off; COPY (SELECT * FROM jobqueue.limits, hidden) TO STDOUT'), '42501',
		'... nor a query');
	is(attempt($role, 'SET row_security = off; BEGIN; DECLARE c CURSOR FOR SELECT (SELECT n FROM hidden) FROM '
			. 'jobqueue.limits'), '42501', '... nor a cursor that reads more');
	is(attempt($role, 'SET row_security = off; BEGIN; DECLARE c CURSOR FOR SELECT role FROM jobqueue.limits; FETCH ALL '
			. 'c; SHOW row_security'), "tenant\noff", '... and row_security is off after a cursor');
	is(attempt($role, "SELECT count(*) FROM jobqueue.tasks WHERE queue = 'of tenant'"), 21, '... and reads all tasks');
	is(attempt($role, 'SELECT count(*) > 0 FROM jobqueue.queue_status'), $role eq 'backup' ? 't' : '42501',
		'... and pg_read_all_data the state of queues');
	for my $sql ('UPDATE jobqueue.tasks SET status = status', 'DELETE FROM jobqueue.tasks',
		'SELECT FROM jobqueue.tasks FOR UPDATE', "INSERT INTO jobqueue.limits (role) VALUES ('$role')",
		'COPY jobqueue.limits FROM STDIN') {
		is(attempt($role, $sql), '42501', "... but may not: $sql");
	}
}
is(attempt('backup', "INSERT INTO jobqueue.tasks (type, queue) VALUES ('x', 'of tenant')"), '42501',
	'its level of access counts in its own queue only');
$node->safe_psql('app', 'REVOKE pg_read_all_data FROM backup');
is(attempt('backup', 'SELECT count(*) FROM jobqueue.tasks'), 0, 'who is no member any more reads nothing');
$node->safe_psql('postgres', 'DO $$BEGIN EXECUTE format(\'ALTER DATABASE app OWNER TO %I\', current_user); END$$');
is(attempt('owns', 'SELECT count(*) FROM jobqueue.tasks'), '42501', 'nor who no longer owns the database');
done_testing();
