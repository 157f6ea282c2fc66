# How long texts may be is said in src/engine/store/bounds.hpp, in the checks of the tables, and in
# doc/reference.md: they agree.
use strict;
use warnings;
use FindBin;
use Test::More;

my $root = "$FindBin::Bin/../..";

sub slurp {
	my ($name) = @_;
	open my $in, '<', "$root/$name" or return '';
	local $/;
	return scalar <$in>;
}

my %bound = slurp('src/engine/store/bounds.hpp') =~ /^inline constexpr (?:size_t|int32) (\w+) = (\d+);/mg;
ok(keys %bound > 15, 'bounds.hpp has them');

# which bound a column has: that of its name, except these
my %named = (name => 'schedule_name', payload => 'schedule_payload', last_error => 'error', handler => 'signature',
	backoff_function => 'signature', discard_sqlstates => 'sqlstates_size', unique_key => 'key',
		names => 'graph_names_size',
	dead_letter_queue => 'queue', on_failure => 'type');
my $checks = 0;
for my $file (map { s/^\Q$root\E\///r } glob "$root/src/sql/*.sql") {
	my $sql = slurp($file);
	while ($sql =~ /(?:octet_length|pg_column_size)\((\w+)\) OPERATOR\(pg_catalog\.<=\) (\d+)/g) {
		my ($column, $most) = ($1, $2);
		my $name = $named{$column} // $column;
		$most -= 4 if $column eq 'payload'; # the length word, which pg_column_size() counts
		is($most, $bound{$name}, "$file: $column");
		$checks++;
	}
}
cmp_ok($checks, '>', 15, 'the tables have checks');

my ($table) = slurp('doc/reference.md') =~ /^#### How long texts may be\n(.*?)^####/ms;
$table //= '';
for my $name (
	qw(queue type key metadata claimed_by graph_name schedule_name cron time_zone command schedule_payload signature
	sqlstates 	error reason progress_message failure_detail)) {
	ok($table =~ /^\|.*\| $bound{$name}\b.*\|/m, "doc/reference.md: $name");
}
like($table, qr/at most $bound{attempts} times/, 'doc/reference.md: attempts');

done_testing();
