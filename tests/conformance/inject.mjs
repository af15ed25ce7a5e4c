// Adds a bearer token to every request that goes to one origin. The suite has no option for it, so this is loaded
// before it (`node --import`); requests that bring their own Authorization header keep it.
//
// CONFORMANCE_ORIGIN  scheme://host:port of the server under test
// CONFORMANCE_TOKEN   the token

import { subscribe } from 'node:diagnostics_channel';
import http from 'node:http';
import { syncBuiltinESMExports } from 'node:module';

const { origin } = new URL(process.env.CONFORMANCE_ORIGIN);
const authorization = `Bearer ${process.env.CONFORMANCE_TOKEN}`;

// The built-in fetch and the undici package report here; `origin` is where they connect, whatever Host they claim.
subscribe('undici:request:create', ({ request }) => {
  if (new URL(request.origin).origin === origin && !hasAuthorization(request.headers)) {
    request.addHeader('authorization', authorization);
  }
});

// Some scenarios write header lines that fetch would refuse, and use node:http for it.
const { request: original } = http;
http.request = function (...args) {
  const request = original.apply(this, args);
  if (destination(args) === origin && !request.headersSent && !request.hasHeader('authorization')) {
    request.setHeader('authorization', authorization);
  }
  return request;
};
syncBuiltinESMExports();

// undici keeps headers as a list of alternating names and values.
function hasAuthorization(headers) {
  return headers.some((name, at) => at % 2 === 0 && String(name).toLowerCase() === 'authorization');
}

// http.request(url[, options][, callback]) or http.request(options[, callback]).
function destination([first, second]) {
  const url = typeof first === 'string' || first instanceof URL ? new URL(first) : undefined;
  const given = url ? second : first;
  const options = typeof given === 'object' && given !== null ? given : {};
  const protocol = options.protocol ?? url?.protocol ?? 'http:';
  const host = options.hostname ?? options.host ?? url?.hostname ?? 'localhost';
  const port = options.port ?? url?.port ?? '';
  return new URL(`${protocol}//${host}${port === '' ? '' : `:${port}`}`).origin;
}
