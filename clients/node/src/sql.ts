/**
 * What runs SQL: a Client, a PoolClient or a Pool of `pg`, or what an adapter makes of another library's connection.
 * All parameters are texts, and all columns that are read are texts, booleans or small integers, so that no driver
 * and no type parser of the application can change a value.
 */
export interface Queryable {
	query(text: string, values: (string | null)[]): Promise<{ rows: any[] }>;
}

/** A length of time: milliseconds, or a text that PostgreSQL reads as an interval, such as '5 minutes'. */
export type Duration = number | string;

export const interval = (duration: Duration): string =>
	typeof duration === 'number' ? `${duration} milliseconds` : duration;

/** The JSON of a value; an error for what has none, such as a function, instead of a silent null. */
export function json(value: unknown): string {
	const text = JSON.stringify(value);
	if (text === undefined) throw new TypeError(`a ${typeof value} cannot be written as JSON`);
	return text;
}

/** A parameter of a type. An array is passed as a text with a JSON array, which no driver takes for something else. */
export function parameter(number: number, type: string): string {
	const text = `$${number}::text`;
	if (!type.endsWith('[]')) return type === 'text' ? text : `${text}::${type}`;
	const element = type.slice(0, -2);
	const elements = element === 'jsonb' ? 'jsonb_array_elements' : 'jsonb_array_elements_text';
	return `ARRAY(SELECT e.value::${element} FROM ${elements}(${text}::jsonb) WITH ORDINALITY e ORDER BY e.ordinality)`;
}

export type Argument = [name: string, type: string, value: string | null];

/** A call of a function of the extension with named arguments, so that those left out have the server's defaults. */
export function call(name: string, args: Argument[]): { text: string; values: (string | null)[] } {
	const list = args.map(([argument, type], i) => `${argument} => ${parameter(i + 1, type)}`);
	return { text: `jobqueue.${name}(${list.join(', ')})`, values: args.map(([, , value]) => value) };
}
