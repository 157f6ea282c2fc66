import { type SQL, sql } from 'drizzle-orm';
import type { Queryable } from './sql.js';

/** A database of Drizzle for PostgreSQL, with any of its drivers, or a transaction. */
export interface DrizzleLike {
	execute(query: SQL): PromiseLike<unknown>;
}

/** A connection or transaction of Drizzle, as the functions of this package take it. */
export function fromDrizzle(db: DrizzleLike): Queryable {
	return {
		async query(text, values) {
			const chunks = text.split(/\$(\d+)/).map((part, i) =>
				i % 2 === 0 ? sql.raw(part) : sql`${sql.param(values[Number(part) - 1])}`);
			const result = await db.execute(sql.join(chunks));
			// pg gives an object with rows, postgres.js the rows
			return Array.isArray(result) ? { rows: result } : (result as { rows: any[] });
		},
	};
}
