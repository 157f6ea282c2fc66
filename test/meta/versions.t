# The version is written in jobqueue.control; the places that must repeat it agree.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use Test::More;

my $root = "$FindBin::Bin/../..";

sub slurp {
	my ($name) = @_;
	open my $in, '<', "$root/$name" or return '';
	local $/;
	return scalar <$in>;
}

my ($version) = slurp('jobqueue.control') =~ /^default_version *= *'([^']+)'/m;
like($version, qr/^[0-9]+\.[0-9]+\.[0-9]+$/, 'jobqueue.control has a version');

my $meta = decode_json(slurp('META.json'));
is($meta->{version}, $version, 'META.json: version');
is($meta->{provides}{jobqueue}{version}, $version, 'META.json: version provided');

my @mentioned = slurp('README.md') =~ /\bversion ([0-9]+\.[0-9]+\.[0-9]+)/gi;
ok(@mentioned > 0, "README.md says \"version $version\"");
is($_, $version, 'README.md: version') for @mentioned;

# Every released version can be updated from.
my @updates = map { /--([^-]+)--([^-]+)\.sql$/ ? $2 : () } glob("$root/jobqueue--*--*.sql");
ok(!@updates || grep({ $_ eq $version } @updates), 'an update script leads to this version, if there are any');

done_testing();
