# Each case of clients/conformance.md is shown by a test of each package.
use strict;
use warnings;
use FindBin;
use Test::More;

chdir "$FindBin::Bin/../.." or die "$!\n";

sub slurp {
	my ($name) = @_;
	open my $in, '<', $name or die "$name: $!\n";
	local $/;
	return scalar <$in>;
}

my @cases = slurp('clients/conformance.md') =~ /^- \*\*(C\d+)\*\* /mg;
is("@cases", join(' ', map { "C$_" } 1 .. @cases), 'the cases are numbered from C1 on');
cmp_ok(scalar @cases, '>=', 24, '... and none has gone');

my %tests = (
	# a test's name, not a comment that mentions a case
	python => join('', map { slurp($_) =~ /^\s*(?:async )?def test_\w+/mg } glob 'clients/python/tests/*.py'),
	node => join('', map { slurp($_) =~ /\b(?:test|it|describe)\w*\(\s*['"`][^'"`]*/g } glob 'clients/node/test/*.ts'));
for my $package (sort keys %tests) {
	for my $case (@cases) {
		like($tests{$package}, qr/(?:\b|_)$case(?!\d)/i, "$package: a test is named for $case");
	}
}
done_testing();
