import pg from 'pg';

/** Where the server is: a URL, which may name several hosts, or the configuration of a `pg.Client`. */
export type Conninfo = string | pg.ClientConfig;

const connectTimeout = 5000;
// a server that does not answer for so long is as good as gone
const queryTimeout = 60_000;
const farewellTimeout = 1000;

function pairs(hosts: string, ports: string): { host: string; port: string }[] {
	const hostList = hosts.split(',');
	const portList = ports.split(',');
	if (portList.length !== 1 && portList.length !== hostList.length)
		throw new TypeError(`${portList.length} ports do not match ${hostList.length} hosts`);
	return hostList.map((host, i) => ({ host, port: portList[i] ?? portList[0]! }));
}

// postgresql://user@one:5432,two:5433/database, and also ?host=one,two&port=5432,5433
function urls(url: string): string[] {
	const [, start, hosts, path, query] = /^(postgres(?:ql)?:\/\/(?:[^@/?]*@)?)([^/?]*)([^?]*)(.*)$/s.exec(url) ?? [];
	if (start === undefined || hosts === undefined) {
		if (/^\s*\w+\s*=/.test(url))
			throw new TypeError('a connection string is a URL: postgresql://user@host/database');
		return [url];
	}
	const parameters = new URLSearchParams(query);
	const inQuery = parameters.get('host');
	if (inQuery === null) return hosts.split(',').map((host) => start + host + path + query);
	return pairs(inQuery, parameters.get('port') ?? '').map(({ host, port }) => {
		parameters.set('host', host);
		if (port) parameters.set('port', port);
		return `${start}${hosts}${path}?${parameters}`;
	});
}

/** The configurations to try, one for each host. What is left out comes from PGHOST, PGPORT and so on, as in libpq. */
export function targets(conninfo: Conninfo = {}): pg.ClientConfig[] {
	const config = typeof conninfo === 'string' ? { connectionString: conninfo } : conninfo;
	if (config.connectionString !== undefined)
		return urls(config.connectionString).map((connectionString) => ({ ...config, connectionString }));
	const hosts = config.host ?? process.env['PGHOST'] ?? '';
	const ports = String(config.port ?? process.env['PGPORT'] ?? '');
	return pairs(hosts, ports).map(({ host, port }) => ({
		...config,
		...(host && { host }),
		...(port && { port: Number(port) }),
	}));
}

/** Connects to the first of the servers that answers and is no standby. */
export async function connect(configs: pg.ClientConfig[], onError: (error: Error) => void): Promise<pg.Client> {
	let failure: unknown;
	for (const config of configs) {
		const client = new pg.Client({
			fallback_application_name: 'jobqueue-pg',
			connectionTimeoutMillis: connectTimeout,
			query_timeout: queryTimeout,
			keepAlive: true,
			...config,
		});
		client.on('error', onError);
		try {
			await client.connect();
			const { rows } = await client.query('SELECT pg_is_in_recovery() AS standby');
			if (!rows[0].standby) return client;
			failure = new Error(`${client.host}:${client.port} is a standby`);
		} catch (error) {
			failure = error;
		}
		await disconnect(client);
	}
	throw failure;
}

/** Says goodbye, and does not wait for long if nobody answers. */
export async function disconnect(client: pg.Client): Promise<void> {
	client.removeAllListeners('error').on('error', () => {});
	let timer: NodeJS.Timeout | undefined;
	const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, farewellTimeout)));
	await Promise.race([client.end().catch(() => {}), patience]);
	clearTimeout(timer);
}
