// Checks the table expressions.txt twice: against jobqueue.next_runs() on the server that psql finds, and against
// croner, another implementation of cron expressions. A row whose last column says why croner differs must really
// differ.
//
//   node check.mjs DIRECTORY     where croner has been installed with npm --prefix
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/package.json`);
const { Cron } = require('croner');

const rows = readFileSync(new URL('expressions.txt', import.meta.url), 'utf8').split('\n')
	.filter(line => line !== '' && !line.startsWith('#'))
	.map(line => line.split('\t'));
if (rows.length < 200)
	throw new Error(`only ${rows.length} expressions in the table`);

const sql = `
	SET timezone = 'UTC';
	CREATE TEMP TABLE asked (n integer, cron text, time_zone text, after timestamptz);
	COPY asked FROM stdin;
${rows.map(([cron, zone, after], n) => [n, cron, zone, after].join('\t')).join('\n')}
\\.
	SELECT (SELECT string_agg(to_char(t, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), ' ')
		FROM jobqueue.next_runs(cron, 5, time_zone, after) t) FROM asked ORDER BY n;`;
const answers = execFileSync('psql', ['-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1'], { input: sql, encoding: 'utf8' })
	.trimEnd().split('\n');

function another(cron, zone, after) {
	try {
		return new Cron(cron, { timezone: zone, paused: true }).nextRuns(5, new Date(after))
			.map(time => time.toISOString().replace('.000', '')).join(' ');
	} catch (error) {
		return `an error: ${error.message}`;
	}
}

let faults = 0, confirmed = 0;
rows.forEach(([cron, zone, after, expected, difference], n) => {
	const fault = (who, said) => {
		console.log(`"${cron}" in ${zone} after ${after}\n  expected ${expected}\n  ${who} ${said}`);
		faults++;
	};
	if (answers[n] !== expected)
		fault('jobqueue', answers[n]);
	const croner = another(cron, zone, after);
	if ((croner === expected) === (difference !== undefined))
		fault('croner', difference ? 'agrees: the last column is out of date' : croner);
	confirmed += croner === expected;
});
const documented = rows.length - confirmed;
console.log(`${rows.length} expressions, ${confirmed} confirmed by croner, ${documented} documented differences`);
if (faults > 0 || answers.length !== rows.length || confirmed < 200)
	process.exit(1);
