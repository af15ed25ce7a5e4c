// Connects with the TypeScript SDK, `typescript.mjs v1` or `v2`. The second argument and the lines: see python_sdk.py.
// MODULES is the folder whose node_modules has the packages.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.MODULES}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const which = process.argv[2];
const target = JSON.parse(process.argv[3]);

const { Client, StreamableHTTPClientTransport, UnauthorizedError } =
    which === 'v1'
        ? {
              ...(await load('@modelcontextprotocol/sdk/client/index.js')),
              ...(await load('@modelcontextprotocol/sdk/client/streamableHttp.js')),
              ...(await load('@modelcontextprotocol/sdk/client/auth.js')),
          }
        : await load('@modelcontextprotocol/client');

// Where the client waits for the browser.
let came;
const answer = new Promise((resolve) => (came = resolve));
const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://127.0.0.1');
    if (url.searchParams.has('code') || url.searchParams.has('error')) came(url.searchParams);
    response.end('Done.');
});
await new Promise((ready) => server.listen(target.port ?? 0, '127.0.0.1', ready));
const callback = `http://127.0.0.1:${server.address().port}/callback`;

const kept = { client: target.client, tokens: undefined, verifier: undefined };
const provider = {
    redirectUrl: callback,
    clientMetadataUrl: target.document,
    clientMetadata: {
        client_name: `TypeScript SDK ${which}`,
        redirect_uris: [callback],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        token_endpoint_auth_method: target.client?.client_secret ? 'client_secret_post' : 'none',
    },
    clientInformation: () => kept.client,
    saveClientInformation: (client) => void (kept.client = client),
    tokens: () => kept.tokens,
    saveTokens: (tokens) => void (kept.tokens = tokens),
    redirectToAuthorization: (url) => console.log(`OPEN ${url}`),
    saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
    codeVerifier: () => kept.verifier,
};

async function call() {
    const client = new Client({ name: 'journeys', version: '1' });
    await client.connect(new StreamableHTTPClientTransport(new URL(target.url), { authProvider: provider }));
    const text = JSON.stringify(await client.callTool({ name: target.tool, arguments: {} }));
    await client.close();
    if (!text.includes(target.expect)) throw new Error(`${target.expect} is not in ${text}`);
}

async function main() {
    const transport = new StreamableHTTPClientTransport(new URL(target.url), { authProvider: provider });
    try {
        await new Client({ name: 'journeys', version: '1' }).connect(transport);
        throw new Error('it was let in without a token');
    } catch (error) {
        if (!(error instanceof UnauthorizedError)) throw error;
    }
    // v2 takes all that came, so that it can compare `iss`.
    const parameters = await answer;
    await transport.finishAuth(which === 'v1' ? parameters.get('code') : parameters);
    await call();
    const before = kept.tokens;
    // As if it had ended: the server says 401, and the client renews it, with nobody at a browser.
    kept.tokens = { ...before, access_token: `${before.access_token.slice(0, -4)}AAAA` };
    await call();
    if (kept.tokens.refresh_token === before.refresh_token) throw new Error('the token was not renewed');
    return kept.client.client_id;
}

const late = new Promise((_, reject) => setTimeout(() => reject(new Error('no end within 240 s')), 240_000).unref());
let line;
try {
    line = { ok: true, detail: await Promise.race([main(), late]) };
} catch (error) {
    line = { ok: false, detail: String(error?.stack ?? error).slice(0, 600) };
}
console.log(JSON.stringify(line));
process.exit(0);
