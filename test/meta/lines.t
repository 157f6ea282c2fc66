# No line is longer than 120 columns, with tabs of four, in the sources, the SQL, the scripts and the tests.
use strict;
use warnings;
use FindBin;
use Test::More;

chdir "$FindBin::Bin/../.." or die "$!\n";

# Output that tests expect repeats what was put in, with prompts and paddings; the other one is a table of test data.
my $except = qr{^expected/|/expected/|^test/cron/expressions\.txt$|\.(?:svg|json|png)$|/results/|/node_modules/};

my @files = grep { -f && !/$except/ }
	glob('src/*.?pp src/*/*.?pp src/*/*/*.?pp src/sql/*.sql sql/* scripts/* examples/*.ts'),
	glob('jobqueue--*--*.sql test/* test/*/* test/*/*/* test/*/*/*/*'),
	glob('clients/*/src/* clients/*/src/*/* clients/*/src/*/*/* clients/*/test*/* clients/*/test*/*/*');
ok(@files > 100, 'there are files');
for my $file (@files) {
	open my $in, '<:encoding(UTF-8)', $file or die "$file: $!\n";
	my @long;
	while (my $line = <$in>) {
		chomp $line;
		1 while $line =~ s/^([^\t]*)\t/$1 . ' ' x (4 - length($1) % 4)/e;
		push @long, "$file:$." if length $line > 120;
	}
	is("@long", '', "$file: lines of 120 columns at most");
}
done_testing();
