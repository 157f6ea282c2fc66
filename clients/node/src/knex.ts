import type { Queryable } from './sql.js';

/** A Knex instance, or a transaction. */
export interface KnexLike {
	raw(sql: string, bindings: readonly any[]): PromiseLike<any>;
}

/** A connection or transaction of Knex, as the functions of this package take it. */
export function fromKnex(knex: KnexLike): Queryable {
	return {
		async query(text, values) {
			// Knex has no numbers: each ? is the next binding
			const bindings: unknown[] = [];
			const sql = text.replace(/\$(\d+)/g, (_, number) => {
				bindings.push(values[Number(number) - 1]);
				return '?';
			});
			return await knex.raw(sql, bindings);
		},
	};
}
