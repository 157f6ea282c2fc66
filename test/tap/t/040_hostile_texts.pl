# Texts without a bound, and names that users choose: they stop no other user.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('texts', 'jobqueue.poll_interval' => "'1h'");
create_queue($node, 'postgres');
sub sql { return $node->safe_psql('postgres', shift); }

# C7: names that had the same unkeyed hash (64-bit FNV-1a), as anybody can find them
sub fnv {
	my ($name, $hash) = @_;
	use integer;
	$hash = (($hash ^ ord) * 1099511628211) for split //, $name;
	return $hash;
}
my $offset = -3750763034362895579; # 14695981039346656037
my ($mine, $theirs) = ('hQzOHu39J8F3QABc', 'hSM8N2D3BWM8mBMf');
is(fnv($mine, fnv('group', $offset)), fnv($theirs, fnv('group', $offset)), 'C7: two groups with the same unkeyed hash');
sql("SELECT jobqueue.enqueue('theirs', queue => 'theirs', group_key => '$theirs') FROM generate_series(1, 2);
	SELECT jobqueue.enqueue('mine', queue => 'theirs', group_key => '$mine')");
is(sql("SELECT string_agg(type, ',' ORDER BY type) FROM jobqueue.claim('theirs', 10)"), 'mine,theirs',
	'C7: a group whose name was chosen to collide with another does not hold it up');
my ($one, $other) = ('tVKTHJsKUOKKD1FL', 'gTEcRQ035XFTY3wO');
is(fnv($one, fnv('type', $offset)), fnv($other, fnv('type', $offset)), 'C7: two types with the same unkeyed hash');
# no worker takes them
sql("CREATE FUNCTION f(payload jsonb) RETURNS void LANGUAGE sql AS ''; SELECT jobqueue.limit_role('postgres', 0)");
sql("
	SELECT jobqueue.register_handler('$_', 'f(jsonb)', queue => 'nobody', max_running => 1);
	SELECT jobqueue.enqueue('$_', queue => 'limited');") for $one, $other;
is(sql("SELECT count(*) FROM jobqueue.claim('limited', 10, types => ARRAY['$one', '$other'])"), 2,
	'C7: nor does a type with a limit');
sql('DELETE FROM jobqueue.tasks');

# B2: a consumer with a name as long as a book
my ($code, $out, $err) =
	$node->psql('postgres', "SELECT count(*) FROM jobqueue.claim('x', claimed_by => repeat('x', 270000000))");
like($err, qr/claimed_by must have at most 255 bytes/, 'B2: a claim by somebody whose name has 270 MB is refused');
# rows as an older version, or somebody with a superuser's means, may have left them
sql("SELECT jobqueue.enqueue('lease', queue => 'x') FROM generate_series(1, 40)");
sql("SELECT count(*) FROM jobqueue.claim('x', 40, '1 second')");
wait_sql($node, 'postgres',
	"SELECT count(*) = 40 FROM jobqueue.tasks WHERE type = 'lease' AND last_error LIKE 'the lease expired: %'", 't',
	'B2: leases end');
($code, $out, $err) =
	$node->psql('postgres',
		"INSERT INTO jobqueue.tasks (type, run_at) VALUES (repeat('x', 50000000), now() + '1 second')");
like($err, qr/tasks_type_length/, 'B2: a plain INSERT with a type of 50 MB is refused');
($code, $out, $err) =
	$node->psql('postgres', "UPDATE jobqueue.tasks SET claimed_by = repeat('x', 256) WHERE type = 'lease'");
like($err, qr/tasks_claimed_by_length/, 'B2: and so is an UPDATE');

# E15: a role that was renamed is named in the schedule's error
sql("CREATE ROLE tenant LOGIN; SELECT jobqueue.grant_access('tenant', 'manager'); GRANT CREATE ON SCHEMA public TO
	tenant; SET ROLE tenant; SELECT jobqueue.schedule('renamed', '* * * * * *', 'renamed'); RESET ROLE;
	ALTER ROLE tenant RENAME TO lodger");
wait_sql($node, 'postgres', q{SELECT last_error FROM jobqueue.schedules WHERE name = 'renamed'},
	'its role "tenant" no longer exists: it was renamed to "lodger" ; create the schedule again as that role',
	'E15: the error of a schedule whose role was renamed says what it is called now');

$node->stop;
done_testing();
