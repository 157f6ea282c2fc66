import type { Queryable } from './sql.js';

/** A client of Prisma, or the client of an interactive transaction. */
export interface PrismaLike {
	$queryRawUnsafe(query: string, ...values: any[]): PromiseLike<unknown>;
}

/** A connection or transaction of Prisma, as the functions of this package take it. */
export function fromPrisma(prisma: PrismaLike): Queryable {
	return {
		// "unsafe" is what Prisma calls a text with parameters: no value is in the text
		query: async (text, values) => ({ rows: (await prisma.$queryRawUnsafe(text, ...values)) as any[] }),
	};
}
