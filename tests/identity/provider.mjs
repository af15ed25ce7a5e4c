// An identity provider for tests: whoever comes is signed in as whom the test has said, and agrees to everything.
//
// POST /_test takes JSON: `client` (the gateway's origin and client), `account` (the claims of whoever signs in next),
// `ask` (true: whoever comes types which account, on a page), `rotate` (true: other signing keys from now on), `tokens`
// (`format` and `audience` of access tokens for a `resource`), `sign` (`header` and `claims` of a JWT, which comes back as
// `jwt`). Beside the gateway there is `cli`, a public client. GET /_test tells `refreshTokens`, how many were given.
//
// IDENTITY_HOST is its name in the issuer, by default 127.0.0.1; `localhost` is another site than the gateway's.
import { createServer } from 'node:http';
import { createPrivateKey, generateKeyPairSync, randomUUID, sign as signature } from 'node:crypto';

// Standard output is for the issuer alone: whoever starts this reads no further.
console.info = console.error;
const { default: Provider } = await import(process.argv[2]);

const key = () => ({
  ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
  alg: 'ES256', use: 'sig', kid: randomUUID(),
});
const state = {
  accounts: new Map(), next: undefined, ask: false, refreshTokens: 0, client: undefined, jwks: { keys: [key()] },
  tokens: { format: 'jwt', audience: undefined },
};

const server = createServer((request, response) => {
  if (request.url === '/_test' && request.method === 'GET') {
    return response.end(JSON.stringify({ refreshTokens: state.refreshTokens }));
  }
  if (request.method === 'POST' && request.url === '/_test') return control(request, response);
  return handle(request, response);
});
await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
const issuer = `http://${process.env.IDENTITY_HOST ?? '127.0.0.1'}:${server.address().port}`;
let provider;
let handle;

function build() {
  provider = new Provider(issuer, {
    clients: state.client ? [{
      client_id: 'gateway',
      client_secret: 'not a secret',
      grant_types: ['authorization_code', 'refresh_token'],
      id_token_signed_response_alg: 'ES256',
      redirect_uris: [`${state.client}/login/callback/company`, `${state.client}/oauth/callback`],
      post_logout_redirect_uris: [`${state.client}/login`],
      backchannel_logout_uri: `${state.client}/login/back-channel/company`,
      backchannel_logout_session_required: true,
    }, {
      client_id: 'cli',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      id_token_signed_response_alg: 'ES256',
      redirect_uris: ['http://127.0.0.1:33418/callback'],
    }] : [],
    jwks: state.jwks,
    cookies: { keys: ['a key of a test'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'email', 'profile', 'groups'],
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx, form) => { ctx.body = form; },
      },
      introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === 'gateway' },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'mcp',
          audience: state.tokens.audience ?? resource,
          accessTokenFormat: state.tokens.format,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
    // It posts logout tokens to no private address of its own accord.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...state.accounts.get(id) }) }),
  });
  provider.on('refresh_token.saved', () => { state.refreshTokens += 1; });
  provider.on('backchannel.error', (ctx, error) => console.error(error));
  const callback = provider.callback();
  handle = (request, response) => (request.url.startsWith('/interaction/') ? agree(request, response) : callback(request, response));
}

const form = `<!DOCTYPE html><title>Company</title><form method="post">
<label>Account <input name="account" required></label> <button>Go on</button></form>`;

async function body(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}

async function agree(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    if (state.ask && request.method === 'GET') return response.setHeader('content-type', 'text/html').end(form);
    const accountId = state.ask ? new URLSearchParams(await body(request)).get('account') : state.next;
    return provider.interactionFinished(request, response, { login: { accountId } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  if (params.resource) grant.addResourceScope(params.resource, 'mcp');
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

function sign({ header, claims }) {
  const [jwk] = state.jwks.keys;
  const part = (json) => Buffer.from(JSON.stringify(json)).toString('base64url');
  const input = `${part({ alg: 'ES256', kid: jwk.kid, ...header })}.${part(claims)}`;
  const key = createPrivateKey({ key: jwk, format: 'jwk' });
  return `${input}.${signature('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

async function control(request, response) {
  const { client, account, ask, rotate, tokens, sign: jwt } = JSON.parse(await body(request));
  if (client) state.client = client;
  if (account) {
    const { sub, ...claims } = account;
    state.next = sub;
    state.accounts.set(sub, claims);
  }
  if (ask !== undefined) state.ask = ask;
  if (rotate) state.jwks = { keys: [key()] };
  if (tokens) state.tokens = tokens;
  if (client || rotate) build();
  response.end(JSON.stringify(jwt ? { jwt: sign(jwt) } : {}));
}

build();
console.log(issuer);
process.stdin.on('end', () => process.exit(0)).resume();
