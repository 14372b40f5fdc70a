import { largestFree } from '../sizes';
import { GIB, offer } from './rows';

describe('the largest share that is free', () => {
  it.each([
    [['1/4', '1/2', '0'], '1/2'],
    [['1/2', '1/4', '0'], '1/2'],
    [['1', '2x1/4', '0'], '1'],
    [['0'], undefined]
  ])('of %j is %s', (free, wanted) => {
    const taken = offer('2x1', { available: false, why: 'It is taken.' });
    const offers = [taken, ...free.map(size => offer(size))];
    expect(largestFree(offers)?.size).toBe(wanted);
  });

  it('is measured by memory where sizes are of several kinds', () => {
    const memory = (gib: number): [number, number] => [gib * GIB, gib * GIB];
    const offers = [
      offer('1/2', { memory_bytes: memory(40) }),
      offer('60GiB', { memory_bytes: memory(60) })
    ];
    expect(largestFree(offers)?.size).toBe('60GiB');
  });
});
