import { testBridge } from './bridge-suite.ts';

testBridge('tcx');
