-- Format 3: the number of each part of the file, where only `raw` had one.
alter table raw.format add column part varchar default 'raw';
