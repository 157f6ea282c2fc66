# scripts/check-layers finds what it is there to find, and nothing else.
use strict;
use warnings;
use FindBin;
use File::Basename;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use Test::More;

my $program = "$FindBin::Bin/../../scripts/check-layers";

# Runs it on a tree of these files beside good ones; returns its exit code and the rules it saw broken.
sub check {
	my (%files) = @_;
	my $root = tempdir(CLEANUP => 1);
	%files = (
		'src/jobqueue.cpp' => qq{#include "api/enqueue.hpp"\n#include "server/worker.hpp"\n},
		'src/engine/store/adding.cpp' => qq{const char *sql = "SELECT 1";\n},
		'src/pg/compat.hpp' => "#if PG_VERSION_NUM >= 160000\n#endif\n",
		%files);
	for my $name (keys %files) {
		make_path(dirname("$root/$name"));
		open my $out, '>', "$root/$name" or die "$name: $!";
		print $out $files{$name};
	}
	my $output = `$program '$root' 2>&1`;
	return join ' ', $? >> 8, $output =~ /^(src\S+: \[\w+\])/mg;
}

is(check(), '0', 'a good tree');
is(check(
	'src/engine/a.cpp' =>
		qq{#include "shared/b.hpp"\n#include <pg/c.hpp>\n#include "engine/d.hpp"\n#include "utils/guc.h"\n}),
	'0', 'own room and lower ones, and the server');

is(check('src/pg/a.cpp' => qq{\n#include "shared/b.hpp"\n}), '1 src/pg/a.cpp:2: [include]', 'a higher room');
is(check('src/shared/a.hpp' => qq{# include <engine/b.hpp>\n}), '1 src/shared/a.hpp:1: [include]', 'in angle brackets');
is(check('src/engine/a.hpp' => qq{#include "server/b.hpp"\n}), '1 src/engine/a.hpp:1: [include]', 'engine and server');
is(check('src/api/a.cpp' => qq{#include "server/b.hpp"\n}), '1 src/api/a.cpp:1: [include]', 'api and server');
is(check('src/server/a.cpp' => qq{#include "api/b.hpp"\n}), '1 src/server/a.cpp:1: [include]', 'server and api');
is(check('src/pg/a.cpp' => qq{#include "../engine/b.hpp"\n}), '1 src/pg/a.cpp:1: [include]', 'a way around');
is(check('src/pg/a.cpp' => qq{#include "b.hpp"\n}), '1 src/pg/a.cpp:1: [include]', 'a name without its room');
is(check('src/engine/store/a.cpp' =>
	qq{#include "engine/store/b.hpp"\n#include "pg/c.hpp"\n}), '0', 'a store');
is(check('src/engine/store/a.cpp' => qq{#include "engine/claimer.hpp"\n}), '1 src/engine/store/a.cpp:1: [include]',
	'a store and what is above it');
is(check('src/engine/store/a.cpp' => qq{#include "api/claim.hpp"\n}), '1 src/engine/store/a.cpp:1: [include]',
	'a store and a higher room');
is(check('src/engine/other/a.cpp' => ''), '1 src/engine/other/a.cpp:1: [include]', 'an unknown folder in a room');
is(check('src/pg/store/a.cpp' => ''), '1 src/pg/store/a.cpp:1: [include]', 'a folder in another room');
is(check('src/other.cpp' => ''), '1 src/other.cpp:1: [include]', 'a file in no room');
is(check('src/attic/a.cpp' => ''), '1 src/attic/a.cpp:1: [include]', 'an unknown room');

is(check('src/server/scheduler/a.cpp' => qq{#include "server/b.hpp"\n}), '0', 'the scheduler and what is below');
is(check('src/server/a.cpp' => qq{#include "server/scheduler/b.hpp"\n}), '1 src/server/a.cpp:1: [include]',
	'a climb to the scheduler');

is(check('src/engine/a.cpp' => qq{#include "engine/a.hpp"\n#include "engine/b.hpp"\n}, 'src/engine/a.hpp' => '',
	'src/engine/b.cpp' => qq{#include "engine/b.hpp"\n#include "engine/c.hpp"\n}, 'src/engine/b.hpp' => '',
	'src/engine/c.hpp' => ''),
	'0', 'files that need each other one way');
is(check('src/engine/a.cpp' => qq{#include "engine/b.hpp"\n}, 'src/engine/b.cpp' => qq{\n#include "engine/a.hpp"\n}),
	'1 src/engine/b.cpp:2: [cycle]', 'two that need each other');
is(check('src/engine/a.hpp' => qq{#include "engine/b.hpp"\n}, 'src/engine/b.hpp' => qq{#include "engine/store/c.hpp"\n},
	'src/engine/store/c.cpp' => qq{#include "engine/store/d.hpp"\n},
	'src/engine/store/d.hpp' => qq{#include "engine/store/c.hpp"\n}),
	'1 src/engine/store/d.hpp:1: [cycle]', 'a cycle that others lead to is said once');
is(check('src/pg/a.cpp' => qq{#include "pg/b.hpp"\n}, 'src/pg/b.cpp' => qq{#include "pg/c.hpp"\n},
	'src/pg/c.cpp' => qq{#include "pg/a.hpp"\n}),
	'1 src/pg/c.cpp:1: [cycle]', 'three in a circle');

for my $verb (qw(SELECT INSERT UPDATE DELETE WITH)) {
	is(check('src/api/a.cpp' => qq{f(\n"$verb x");\n}), '1 src/api/a.cpp:2: [sql]', "SQL text: $verb");
}
is(check('src/engine/store/phrases.hpp' => qq{"SELECT 1";\n}), '0', 'SQL text in the phrases');
is(check('src/engine/store/a.hpp' => qq{"SELECT 1";\n}), '1 src/engine/store/a.hpp:1: [sql]',
	'SQL text in the header of a store');
is(check('src/engine/a.cpp' => qq{"SELECT 1";\n}), '1 src/engine/a.cpp:1: [sql]', 'SQL text beside the stores');
is(check('src/engine/store/a.cpp' => qq{#define EQ " = "\n}), '1 src/engine/store/a.cpp:1: [sql]',
	'a macro in a store');
is(check('src/api/a.cpp' => qq{auto s = R"sql(\n  UPDATE t)sql";\n}), '1 src/api/a.cpp:1: [sql]', 'SQL text, raw');
is(check('src/api/a.cpp' => qq{auto s = " \\nDELETE FROM t";\n}), '1 src/api/a.cpp:1: [sql]',
	'SQL text, after white space');
is(check('src/api/a.cpp' => <<'CPP'), '0', 'not SQL text');
/* "SELECT 1" */ // "DELETE"
const char *message = "cannot UPDATE this \" WITH that", quote = '"';
long n = 1'000; const char *other = "SELECTED";
CPP
is(check('src/api/a.cpp' => qq{long n = 1'000;\nf("SELECT 1");\n}), '1 src/api/a.cpp:2: [sql]',
	'after a digit separator');

is(check('src/server/a.cpp' => "#if PG_VERSION_NUM < 170000\n#endif\n"), '1 src/server/a.cpp:1: [version]',
	'PG_VERSION_NUM');
is(check('src/server/a.cpp' => "// PG_VERSION_NUM\n"), '0', 'PG_VERSION_NUM in a comment');
is(check('src/pg/guard.cpp' => "PG_TRY();\n{\n}\nPG_CATCH();\n"),
	'1 src/pg/guard.cpp:1: [try] src/pg/guard.cpp:4: [try]', 'PG_TRY');
is(check('src/pg/guard.cpp' => "/* no PG_TRY */\n"), '0', 'PG_TRY in a comment');

my $waiting = "namespace jobqueue {\nclass Waiting {\n\tvoid f() { if (true) {} }\n};\n} // namespace jobqueue\n";
is(check('src/api/a.hpp' => $waiting), '0', 'a class');
is(check('src/api/a.hpp' => $waiting, 'src/api/b.cpp' => $waiting), '1 src/api/b.cpp:2: [name]',
	'A3: a class with the name of another');
for my $kind ('struct', 'union', 'enum', 'enum class', 'enum struct') {
	is(check('src/api/a.cpp' => "namespace jobqueue {\n$kind A {};\n}\n",
		'src/pg/b.cpp' => "namespace jobqueue {\n\n$kind A {};\n}\n"),
		'1 src/pg/b.cpp:3: [name]', "A3: $kind, likewise");
}
is(check('src/api/a.cpp' => "namespace a::b {\ntemplate <typename T> struct A : B<T> {};\n}\n", 'src/api/b.cpp' =>
	"namespace a {\nnamespace b {\nextern \"C\" {\n}\nstruct A final {};\n}\n}\n"), '1 src/api/b.cpp:5: [name]',
		'A3: in nested namespaces');
is(check('src/api/a.cpp' => $waiting, 'src/api/b.cpp' => "namespace jobqueue {\nnamespace {\n"
	. ($waiting =~ /\n(.*)\n\}/s)[0] . "\n}\n}\n",
	'src/api/c.cpp' =>
		"namespace jobqueue::other "
			. "{\nclass Waiting {\n\tstruct A {};\n};\nclass Other {\n\tstruct A {};\n};\nclass Waiting;\n}\n",
	'src/api/d.cpp' =>
		"/* class Waiting {} */\n#define W struct Waiting { \\\n\t}\nnamespace jobqueue "
			. "{\nvoid f(class Waiting *w) {\n\tstruct Waiting {};\n}\n}\n"),
	'0', 'A3: what is not seen elsewhere, or is another');
is(check(
	'src/api/a.cpp' =>
		"namespace jobqueue {\ntemplate <typename A>\nvoid f(A a) {\n}\ninline int g() {\n\treturn 1;\n}\n}\n"),
	'1 src/api/a.cpp:2: [name] src/api/a.cpp:5: [name]', 'A3: functions that the linker may confuse');
is(check(
	'src/api/a.cpp' =>
		"namespace jobqueue {\ntemplate <typename A> static void f(A a) {\n}\n"
			. "template <typename A> void C::f(A a) {\n}\nnamespace {\ninline int g() {\n}\n}\n}\n",
	'src/api/a.hpp' => "inline int h() {\n}\n"), '0', 'A3: functions that it may not');

is(check('src/shared/a.cpp' => "f(mmap(nullptr, size(a), PROT_READ, MAP_SHARED, fd, 0));\n"),
	'1 src/shared/a.cpp:1: [mmap]', 'A4: a file that is mapped');
is(check('src/shared/a.cpp' => "f(mmap(nullptr, size(a), PROT_READ,\n\tMAP_SHARED | MAP_ANONYMOUS, -1, 0));\n"), '0',
	'A4: memory that is no file');
is(check('src/api/a.cpp' => "f(TimestampDifferenceMilliseconds(a, b));\n"), '1 src/api/a.cpp:1: [clock]',
	'a sleep of its own');
is(check('src/api/a.cpp' => "if (GetCurrentTimestamp() - start > 5)\n\tg(end - GetCurrentTimestamp());\n"),
	'1 src/api/a.cpp:1: [clock] src/api/a.cpp:2: [clock]', 'a duration by the wall clock');
is(check('src/api/a.cpp' => "run_at = GetCurrentTimestamp() + delay;\n"), '0', 'a time by the wall clock');

my $empty = tempdir(CLEANUP => 1);
like(`$program '$empty' 2>&1`, qr/no C\+\+ sources/, 'an empty tree is an error');
isnt($?, 0, 'and fails');

done_testing();
