// Answers each request with how many there have been and how many ticks of a timer: both are in memory alone.
'use strict';
const http = require('node:http');

let requests = 0;
let ticks = 0;
setInterval(() => { ticks += 1; }, 20);
http.createServer((_, answer) => {
  requests += 1;
  answer.end(`${requests} ${ticks}\n`);
}).listen(process.argv[2], () => console.log('ready'));
