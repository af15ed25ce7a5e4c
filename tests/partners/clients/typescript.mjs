// Calls servers with a client of the TypeScript SDK: `typescript.mjs v1`, `v2` or `v2-auto`.
//
// Targets come as one JSON document on stdin, each {name, url, token, tool, arguments, expect}; a line
// {name, ok, detail} goes out for each. MODULES is the folder whose node_modules has the packages.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.MODULES}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const which = process.argv[2];

async function connect(target) {
    const info = { name: 'partners', version: '1' };
    const options = { requestInit: { headers: { Authorization: `Bearer ${target.token}` } } };
    let Client, StreamableHTTPClientTransport, settings;
    if (which === 'v1') {
        ({ Client } = await load('@modelcontextprotocol/sdk/client/index.js'));
        ({ StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js'));
    } else {
        ({ Client, StreamableHTTPClientTransport } = await load('@modelcontextprotocol/client'));
        settings = which === 'v2-auto' ? { versionNegotiation: { mode: 'auto' } } : undefined;
    }
    const client = new Client(info, settings);
    const transport = new StreamableHTTPClientTransport(new URL(target.url), options);
    await client.connect(transport);
    return { client, transport };
}

async function call(target) {
    const { client, transport } = await connect(target);
    try {
        const { tools } = await client.listTools();
        if (!tools.some((tool) => tool.name === target.tool)) {
            throw new Error(`${target.tool} is not among ${tools.map((tool) => tool.name)}`);
        }
        const text = JSON.stringify(await client.callTool({ name: target.tool, arguments: target.arguments }));
        if (!text.includes(target.expect)) {
            throw new Error(`${target.expect} is not in ${text}`);
        }
        const version = transport.protocolVersion ?? client.getNegotiatedProtocolVersion?.() ?? '';
        if (transport.sessionId) {
            await transport.terminateSession();
        }
        return version;
    } finally {
        await client.close();
    }
}

for (const target of JSON.parse(readFileSync(0, 'utf8'))) {
    let line;
    try {
        line = { name: target.name, ok: true, detail: await call(target) };
    } catch (error) {
        line = { name: target.name, ok: false, detail: String(error?.message ?? error) };
    }
    console.log(JSON.stringify(line));
}
// Streams that a client left open do not keep this process.
process.exit(0);
