# The files that CONTRIBUTING.md and doc/architecture.md name exist, and so do the targets of their links.
use strict;
use warnings;
use FindBin;
use File::Basename;
use Test::More;

my $root = "$FindBin::Bin/../..";

for my $name ('CONTRIBUTING.md', 'doc/architecture.md') {
	open my $in, '<', "$root/$name" or die "$name: $!\n";
	my $text = do { local $/; <$in> };
	close $in;
	my %seen;
	# A path may have wildcards: src/engine/store/*.cpp
	my @paths = grep { !$seen{$_}++ } $text =~ m{(?<![\w/.])((?:src|scripts|test|doc|sql|examples)/[\w./*-]*[\w*/])}g;
	ok(@paths > 3, "$name names files");
	ok((() = glob "$root/$_") > 0 && -e (glob "$root/$_")[0], "$name: $_ exists") for @paths;
	for my $link (grep { !/^https?:|^#/ && !$seen{$_}++ } $text =~ /\]\(([^)]+)\)/g) {
		my $target = $link =~ s/#.*//r;
		ok(-e "$root/" . dirname($name) . "/$target", "$name: the target of the link $link exists");
	}
}
done_testing();
