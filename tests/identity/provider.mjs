// An identity provider for tests: whoever comes is signed in as whom the test has said, and agrees to everything.
//
// POST /_test takes JSON: `client` (the gateway's origin and client), `account` (the claims of whoever signs in next),
// `rotate` (true: other signing keys from now on).
import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';

// Standard output is for the issuer alone: whoever starts this reads no further.
console.info = console.error;
const { default: Provider } = await import(process.argv[2]);

const key = () => ({
  ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
  alg: 'ES256', use: 'sig', kid: randomUUID(),
});
const state = { accounts: new Map(), next: undefined, client: undefined, jwks: { keys: [key()] } };

const server = createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/_test') return control(request, response);
  return handle(request, response);
});
await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
const issuer = `http://127.0.0.1:${server.address().port}`;
let provider;
let handle;

function build() {
  provider = new Provider(issuer, {
    clients: state.client ? [{
      client_id: 'gateway',
      client_secret: 'not a secret',
      id_token_signed_response_alg: 'ES256',
      redirect_uris: [`${state.client}/login/callback/company`],
      post_logout_redirect_uris: [`${state.client}/login`],
      backchannel_logout_uri: `${state.client}/login/back-channel/company`,
      backchannel_logout_session_required: true,
    }] : [],
    jwks: state.jwks,
    cookies: { keys: ['a key of a test'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    scopes: ['openid', 'email', 'profile', 'groups'],
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx, form) => { ctx.body = form; },
      },
    },
    // It posts logout tokens to no private address of its own accord.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...state.accounts.get(id) }) }),
  });
  provider.on('backchannel.error', (ctx, error) => console.error(error));
  const callback = provider.callback();
  handle = (request, response) => (request.url.startsWith('/interaction/') ? agree(request, response) : callback(request, response));
}

async function agree(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: state.next } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

async function control(request, response) {
  let text = '';
  for await (const chunk of request) text += chunk;
  const { client, account, rotate } = JSON.parse(text);
  if (client) state.client = client;
  if (account) {
    const { sub, ...claims } = account;
    state.next = sub;
    state.accounts.set(sub, claims);
  }
  if (rotate) state.jwks = { keys: [key()] };
  if (client || rotate) build();
  response.end('{}');
}

build();
console.log(issuer);
process.stdin.on('end', () => process.exit(0)).resume();
