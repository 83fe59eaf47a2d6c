import { describe, expect, test } from 'vitest';
import { type Asked, refusalOf } from './admission.ts';

const TOKEN = 'correct-horse-battery';
const LOCAL: Asked = { host: '127.0.0.1:8090', origin: undefined, fetchSite: undefined, authorization: undefined, hasCertificate: false };
const basic = (pair: string): string => `Basic ${Buffer.from(pair).toString('base64')}`;
const status = (asked: Partial<Asked>, token: string | null = null, certificates = false) =>
  refusalOf({ ...LOCAL, ...asked }, { token, certificates })?.status ?? 200;

describe('without a token', () => {
  test.each(['127.0.0.1:8090', 'localhost', 'LOCALHOST:8090', '[::1]:8090', '127.0.0.2'])('Host %s is answered', (host) => expect(status({ host })).toBe(200));
  test.each([
    undefined,
    '',
    'evil.example',
    'evil.example:8090',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '192.168.64.1:8090',
    'localhost:8090:1',
    '[::2]',
    'a@localhost',
  ])('Host %s is refused (DNS rebinding)', (host) => expect(status({ host })).toBe(403));
});

describe('web pages', () => {
  test.each(['https://evil.example', 'null', 'http://localhost:8091', 'http://127.0.0.1', ''])('Origin %s is refused', (origin) => {
    expect(status({ origin })).toBe(403);
    expect(status({ origin, authorization: `Bearer ${TOKEN}` }, TOKEN)).toBe(403);
  });
  test('of the same origin are answered', () => expect(status({ origin: 'http://127.0.0.1:8090', fetchSite: 'same-origin' })).toBe(200));
  test.each(['cross-site', 'same-site'])('Sec-Fetch-Site %s is refused', (fetchSite) => expect(status({ fetchSite })).toBe(403));
});

describe('with a token', () => {
  const asks = (authorization: string | undefined) => status({ host: 'ci.example.com', authorization }, TOKEN);
  test.each([`Bearer ${TOKEN}`, `bearer  ${TOKEN}`, basic(`root:${TOKEN}`), basic(`:${TOKEN}`), basic(`exporter:${TOKEN}`)])('%s is accepted', (a) =>
    expect(asks(a)).toBe(200),
  );
  test.each([
    undefined,
    '',
    'Bearer',
    'Bearer x',
    `Bearer ${TOKEN}x`,
    `Bearer ${TOKEN.slice(0, -1)}`,
    TOKEN,
    `Token ${TOKEN}`,
    basic('root:'),
    basic(TOKEN),
    basic(`${TOKEN}:root`),
    basic(`root:x:${TOKEN}`),
    `Basic ${TOKEN}`,
  ])('%s is refused', (a) => expect(asks(a)).toBe(401));
  test('a token may hold a colon', () => expect(status({ authorization: basic('root:a:b:c') }, 'a:b:c')).toBe(200));
  test('the exporter knows the message', () => expect(refusalOf(LOCAL, { token: TOKEN, certificates: false })?.message).toBe('Authentication Required'));
});

test('a certificate of a client replaces the token', () => {
  expect(status({ host: 'ci', hasCertificate: true }, TOKEN, true)).toBe(200);
  expect(status({ host: 'ci', hasCertificate: true }, null, true)).toBe(200);
  expect(status({ host: 'localhost' }, null, true)).toBe(401);
  expect(status({ host: 'ci', authorization: `Bearer ${TOKEN}` }, TOKEN, true)).toBe(200);
});
