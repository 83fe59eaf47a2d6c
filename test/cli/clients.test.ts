import { describeClients } from './client-flows.ts';

describeClients('tiny');
